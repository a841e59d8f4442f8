//! Where faults happen: servers, a hub, agents, load, and those who measure and judge.

use std::io::Write as _;
use std::time::Duration;

use muster_proto::v1::NodeStatus;
use muster_test_servers::{Postgres, Redis};
use muster_tests::probe::Window;
use muster_tests::{
    Beats, Deadline, Ledger, PATIENCE, Probe, Scribe, TestAgent, TestHub, Verdict, eventually_async,
    long_forms,
};
use registry_core::Clock;
use tokio::sync::{Mutex, MutexGuard};

use crate::load::{Load, said};
use crate::{pass, span};

/// Real agents that run commands, and scribes.
const AGENTS: [&str; 2] = ["web-1", "web-2"];
const SCRIBES: [&str; 4] = ["scribe-1", "scribe-2", "scribe-3", "scribe-4"];
/// Nothing that does without the failed part may stand still for longer: a hundred times what a busy machine takes, and
/// shorter than any fault that has to be survived.
const STANDSTILL: Duration = Duration::from_secs(3);
/// The goals: how much slower the unaffected may be during a fault, and how long recovery may take.
const SLOWER: f64 = 1.5;
const RECOVERY: Duration = Duration::from_secs(10);
/// More than any of these tests writes: retention is not what is tested here.
const LOG_NODE_BYTES: &str = "1000000000";

/// Where the hub keeps what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    SqliteRedis,
    Postgres,
    PostgresRedis,
}

/// Who must not notice a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unaffected {
    /// Heartbeats and live output: the hub itself goes on.
    HeartbeatsAndOutput,
    /// Nobody: the hub itself was away.
    Nobody,
}

/// What was promised of acked frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acks {
    /// Acked is durable, and no agent is asked for it again.
    Stand,
    /// As far as the store's own policy goes: what it lost is asked for again, and agents still have it.
    MayBeRefilled,
    /// The store lost everything: what agents still have is there again, the rest is told as a gap.
    MayBeTold,
}

pub(crate) struct Stage {
    name: String,
    load: Load,
    probe: Probe,
    pub(crate) scribes: Vec<Scribe>,
    pub(crate) agents: Vec<TestAgent>,
    pub(crate) hub: TestHub,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) redis: Option<Redis>,
    ledger: Ledger,
    /// The stretch before the fault, and the fault's.
    before: (Duration, Duration),
    during: (Duration, Duration),
    /// From the fault's end until frames are acked, commands and tokens made, and the agents without backlog, one after the
    /// other: the last is the whole.
    recovery: [Duration; 3],
    /// Frames that were made and that were acked when the fault began, and when it ended.
    counted: [(u64, u64); 2],
    /// One fault at a time: two would measure each other.
    _alone: MutexGuard<'static, ()>,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::SqliteRedis => "SQLite + Redis",
            Self::Postgres => "PostgreSQL",
            Self::PostgresRedis => "PostgreSQL + Redis",
        }
    }
}

impl Stage {
    /// Everything runs, under load, for as long as it takes to know how it is without a fault.
    pub(crate) async fn start(fault: &str, backend: Backend) -> Self {
        Self::start_with(fault, backend, |_| {}, |_| {}).await
    }

    /// The same with changes to the hub and to its agents before they are started.
    pub(crate) async fn start_with(
        fault: &str,
        backend: Backend,
        prepare_hub: impl FnOnce(&mut TestHub),
        prepare_agent: impl Fn(&mut TestAgent),
    ) -> Self {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let postgres = matches!(backend, Backend::Postgres | Backend::PostgresRedis).then(Postgres::start);
        let redis = matches!(backend, Backend::SqliteRedis | Backend::PostgresRedis).then(Redis::start);
        let (database, log) = (postgres.as_ref().map(Postgres::database), redis.as_ref().map(Redis::url));
        let mut args =
            vec!["--heartbeat-interval", "200ms", "--lease", "4s", "--log-node-bytes", LOG_NODE_BYTES];
        args.extend(database.iter().flat_map(|url| ["--database", url.as_str()]));
        args.extend(log.iter().flat_map(|url| ["--terminal-log", url.as_str()]));
        let mut hub = TestHub::new(&args);
        prepare_hub(&mut hub);
        hub.restart();

        let (clock, ledger) = (Clock::system(), Ledger::default());
        let beats = Beats::new(clock.clone());
        let mut agents = Vec::new();
        for name in AGENTS {
            let mut agent = TestAgent::new(&hub, name, &hub.join_token(&[]), &[]);
            prepare_agent(&mut agent);
            agent.start();
            let view = hub.online(name).await;
            ledger.node(&view.node_id, name);
            agents.push(agent);
        }
        let mut scribes = Vec::new();
        for name in SCRIBES {
            let scribe = Scribe::start(&hub, name, &beats).await;
            ledger.node(scribe.node_id(), name);
            scribes.push(scribe);
        }
        let probe = Probe::start(&hub.control(), &scribes, &beats, &clock);
        let load = Load::start(&hub, &ledger, &AGENTS.map(str::to_owned)).await;
        let mut stage = Self {
            name: format!("{fault} ({})", backend.name()),
            load,
            probe,
            scribes,
            agents,
            hub,
            postgres,
            redis,
            ledger,
            before: Default::default(),
            during: Default::default(),
            recovery: [Duration::ZERO; 3],
            counted: Default::default(),
            _alone: alone,
        };
        stage.all_move().await;
        let from = stage.probe.now();
        pass(span(2, 10)).await;
        stage.before = (from, stage.probe.now());
        stage
    }

    /// The hub's process id.
    pub(crate) fn hub_pid(&mut self) -> i32 {
        self.hub.process().pid()
    }

    /// The fault begins now.
    pub(crate) fn begin(&mut self) {
        self.during.0 = self.probe.now();
        self.counted[0] = self.count();
    }

    /// Acks that came while the fault lasted, as a share of the frames that were made: did the fault hold them up at all?
    pub(crate) fn acked_share(&self) -> f64 {
        let [(made, acked), (made_then, acked_then)] = self.counted;
        (acked_then - acked) as f64 / (made_then - made).max(1) as f64
    }

    fn count(&self) -> (u64, u64) {
        let progress = self.scribes.iter().map(Scribe::progress);
        progress.fold((0, 0), |(made, acked), one| (made + one.0, acked + one.1))
    }

    /// The fault is over now. Waits until nothing that came about during it waits any more.
    pub(crate) async fn end(&mut self) {
        self.during.1 = self.probe.now();
        self.counted[1] = self.count();
        let made: Vec<_> = self.scribes.iter().map(|scribe| scribe.progress().0).collect();
        let counted = self.ledger.counts();
        let recovering = Deadline::after(PATIENCE);
        eventually_async("what was made during the fault is acked", async || {
            let acked = self.scribes.iter().map(|scribe| scribe.progress().1);
            acked.zip(&made).all(|(acked, made)| acked >= *made).then_some(())
        })
        .await;
        self.recovery[0] = recovering.elapsed();
        eventually_async("tasks and tokens are made again", async || {
            let now = self.ledger.counts();
            (now.0 > counted.0 && now.1 > counted.1).then_some(())
        })
        .await;
        self.recovery[1] = recovering.elapsed();
        let control = self.hub.control();
        for name in AGENTS {
            eventually_async("the agents' output does not wait", async || {
                let view = control.node(name).await.ok()?;
                let stats = view.stats?;
                let is_fresh = stats.spool_bytes == 0 || stats.spool_oldest_ms < 1_000;
                (view.status() == NodeStatus::Online && is_fresh).then_some(())
            })
            .await;
        }
        self.recovery[2] = recovering.elapsed();
    }

    /// Lets the fault last, during which everything that does without the failed part goes on.
    pub(crate) async fn last(&self, time: Duration) {
        pass(time).await;
    }

    /// Ends the load, reads everything back, says the verdict in a line and fails unless every promise was kept.
    pub(crate) async fn judge(mut self, unaffected: Unaffected, acks: Acks) -> Verdict {
        self.load.stop().await;
        self.scribes.iter().for_each(Scribe::fall_silent);
        eventually_async("every frame is acked", async || {
            let waits = |scribe: &Scribe| scribe.progress().0 != scribe.progress().1;
            (!self.scribes.iter().any(waits)).then_some(())
        })
        .await;
        eventually_async("nothing waits in the hub", async || {
            (self.hub.http().metric("muster_pending_bytes").await == 0.0).then_some(())
        })
        .await;
        let written: Vec<_> = self.scribes.iter().map(Scribe::written).collect();
        let mut verdict =
            Verdict::read(&self.hub.control(), &self.ledger, &written, &self.load.marks()).await.unwrap();
        verdict.violations.extend(self.probe.violations());
        for agent in &mut self.agents {
            let ended = agent.process().try_wait();
            verdict.violations.extend(ended.map(|status| format!("an agent ended: {status}")));
        }
        let windows = [&self.probe.heartbeats, &self.probe.live].map(|samples| {
            (samples.between(self.before.0, self.before.1), samples.between(self.during.0, self.during.1))
        });
        say(&self.line(&verdict, unaffected, &windows));
        assert!(verdict.is_kept(), "{}: {}; {}", self.name, verdict.line(), verdict.complaints());
        assert!(acks != Acks::Stand || verdict.taken_back == 0, "{}: {}", self.name, verdict.line());
        assert!(acks == Acks::MayBeTold || verdict.told_frames == 0, "{}: {}", self.name, verdict.line());
        assert!(verdict.frames > 0 && verdict.tasks > 0 && verdict.tokens > 0, "{}", verdict.line());
        if unaffected == Unaffected::HeartbeatsAndOutput {
            for (what, (_, during)) in ["heartbeats", "live output"].iter().zip(windows) {
                assert!(during.silence < STANDSTILL, "{}: {what} stood still: {during:?}", self.name);
            }
        }
        verdict
    }

    /// Waits until a command leaves its mark: it runs, and the hub does not know that yet.
    pub(crate) async fn next_mark(&self) {
        let marks = || -> u64 {
            let sizes = self
                .load
                .marks()
                .into_iter()
                .map(|path| std::fs::metadata(path).map_or(0, |file| file.len()));
            sizes.sum()
        };
        let before = marks();
        eventually_async("a command runs", async || (marks() > before).then_some(())).await;
    }

    /// Waits until the agents that run commands are attached.
    pub(crate) async fn agents_online(&self) {
        for name in AGENTS {
            self.hub.online(name).await;
        }
    }

    /// Waits until every kind of work has got through once.
    async fn all_move(&self) {
        eventually_async("frames are acked, commands and tokens are made", async || {
            let (tasks, tokens) = self.ledger.counts();
            let acked = self.scribes.iter().all(|scribe| scribe.progress().1 > 0);
            let talk = AGENTS.iter().all(|name| said(self.hub.home().path(), name) > 0);
            (tasks > AGENTS.len() && tokens > 0 && acked && talk).then_some(())
        })
        .await;
    }

    fn line(&self, verdict: &Verdict, unaffected: Unaffected, windows: &[(Window, Window); 2]) -> String {
        let [frames, commands, whole] = self.recovery.map(|time| time.as_secs_f64());
        let share = self.acked_share() * 100.0;
        let verdict = verdict.line();
        let mut line = format!(
            "fault {}: {verdict}; acked during it {share:.0} %; recovery {whole:.1} s (frames after {frames:.1}, \
             commands after {commands:.1})",
            self.name
        );
        let mut goals = vec![("recovery", self.recovery[2] <= RECOVERY)];
        for (what, (before, during)) in ["heartbeat", "live"].into_iter().zip(windows) {
            let ms = |time: Duration| time.as_secs_f64() * 1000.0;
            if unaffected == Unaffected::Nobody {
                line += &format!("; {what} p99 before {:.1} ms", ms(before.p99));
                continue;
            }
            let (a, b, silence) = (ms(before.p99), ms(during.p99), ms(during.silence));
            line += &format!("; {what} p99 before/during {a:.1}/{b:.1} ms, longest pause {silence:.0} ms");
            goals.push((what, b <= a * SLOWER));
        }
        if long_forms() {
            for (what, is_met) in goals {
                line += &format!("; goal for {what} {}", if is_met { "met" } else { "missed" });
            }
        }
        line
    }
}

/// Says a line past the capture of tests' output: a verdict is worth seeing when everything is well, too.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
