//! Contenders that take turns, and how long they take.

use muster_benches::report::median;
use registry_core::Clock;

/// One way to do the work: a name, and a turn that answers with its figure.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    turn: Box<dyn FnMut() -> f64 + 'a>,
}

/// A contender of a contest.
pub(crate) fn contender<'a>(name: &'static str, turn: impl FnMut() -> f64 + 'a) -> Contender<'a> {
    Contender { name, turn: Box::new(turn) }
}

/// Each contender's median over the rounds. One round warms up and does not count; who begins changes by the round.
pub(crate) fn contest(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Vec<(&'static str, f64)> {
    let mut figures = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for turn in 0..contenders.len() {
            let at = (turn + round) % contenders.len();
            let figure = (contenders[at].turn)();
            if round > 0 {
                figures[at].push(figure);
            }
        }
    }
    contenders.iter().zip(&figures).map(|(contender, figures)| (contender.name, median(figures))).collect()
}

/// The figure of one contender.
pub(crate) fn figure(figures: &[(&'static str, f64)], name: &str) -> f64 {
    figures.iter().find(|(contender, _)| *contender == name).map_or(f64::NAN, |(_, figure)| *figure)
}

/// The lowest figure among some contenders.
pub(crate) fn best(figures: &[(&'static str, f64)], among: &[&str]) -> (&'static str, f64) {
    let lowest = figures.iter().filter(|(name, _)| among.contains(name)).min_by(|a, b| a.1.total_cmp(&b.1));
    *lowest.expect("somebody took part")
}

/// Nanoseconds of one of `count` operations.
pub(crate) fn nanos_each(count: u64, work: impl FnOnce()) -> f64 {
    let clock = Clock::system();
    work();
    clock.monotonic().as_nanos() as f64 / count as f64
}

/// What this thread used of its processor so far, in nanoseconds: unlike time, it does not pass while others run.
pub(crate) fn thread_cpu_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
