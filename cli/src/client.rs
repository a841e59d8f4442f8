//! Finds the hub and the credential for it, and opens the connection.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_proto::v1::control_service_client::ControlServiceClient;
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::args::Connection;
use crate::exit::{self, Failure};

/// The largest answer that is taken, in bytes: a page of nodes with many labels is far below it.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// A hub that does not take the connection within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is probed this often and given up after as long again without an answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The hub's functions, with the credential shown in every call.
pub(crate) type Control = ControlServiceClient<InterceptedService<Channel, Credential>>;

/// A hub that commands can be given to. Cloning shares the connection.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    url: String,
    control: Control,
}

impl Hub {
    /// Looks up which hub is meant and prepares the connection, which is opened by the first call.
    pub(crate) fn find(connection: &Connection) -> Result<Self, Failure> {
        let target = Target::find(connection, &Places::of_this_user())?;
        Self::at(&target.url, &target.credential)
    }

    /// The hub at `url`, as the owner of `credential`.
    pub(crate) fn at(url: &str, credential: &str) -> Result<Self, Failure> {
        refuse_plaintext_off_loopback(url)?;
        let credential = Credential::new(credential)?;
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| Failure::usage(format!("{url} is not a hub's address: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let control = ControlServiceClient::with_interceptor(endpoint.connect_lazy(), credential)
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { url: url.to_owned(), control })
    }

    /// A handle to call functions with.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// What a failed call means to the user.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.url)
    }
}

/// Puts `authorization: Bearer ...` into every call.
#[derive(Clone)]
pub(crate) struct Credential(MetadataValue<Ascii>);

impl Credential {
    fn new(text: &str) -> Result<Self, Failure> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().map_err(|_| {
            Failure::new(
                exit::CONFIG,
                "invalid_credential",
                "the credential has characters that no credential has",
            )
        })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// What a hub writes into `client.json` of its data folder at each start.
#[derive(Debug, Deserialize)]
struct ClientFile {
    grpc: String,
    credential: String,
}

/// The address and the credential that a hub wrote into its data folder.
pub(crate) fn of_data_dir(data_dir: &Path) -> Result<Hub, Failure> {
    let file = read_client_file(data_dir)?;
    Hub::at(&file.grpc, &file.credential)
}

#[derive(Debug, PartialEq, Eq)]
struct Target {
    url: String,
    credential: String,
}

impl Target {
    /// Options before the data folder named, before the one that the last hub of this user pointed to, before the
    /// usual one.
    fn find(connection: &Connection, places: &Places) -> Result<Self, Failure> {
        if let (Some(url), Some(file)) = (&connection.hub, &connection.credential_file) {
            return Ok(Self { url: url.clone(), credential: read_credential(file)? });
        }
        let local = match &connection.data_dir {
            Some(dir) => read_client_file(dir)?,
            None => local_hub(places, connection.hub.as_deref())?,
        };
        let credential = match &connection.credential_file {
            Some(file) => read_credential(file)?,
            None => local.credential,
        };
        match &connection.hub {
            // A credential goes only to the hub that made it, unless the user puts the two together.
            Some(url) if connection.data_dir.is_none() && !same_address(url, &local.grpc) => {
                Err(no_credential(url))
            }
            Some(url) => Ok(Self { url: url.clone(), credential }),
            None => Ok(Self { url: local.grpc, credential }),
        }
    }
}

/// Where to look when nothing is said.
#[derive(Debug)]
struct Places {
    /// The file in which a hub leaves the path of its data folder.
    pointer: Option<PathBuf>,
    /// The data folder of a hub that was not told another.
    usual: Option<PathBuf>,
}

impl Places {
    fn of_this_user() -> Self {
        Self {
            pointer: user_folder("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("muster/local-hub")),
            usual: user_folder("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("muster")),
        }
    }
}

/// Leaves the path of a hub's data folder where commands of the same user find it: the hub that was started last.
pub(crate) fn point_to(data_dir: &Path) -> std::io::Result<()> {
    let Some(pointer) = Places::of_this_user().pointer else { return Ok(()) };
    if let Some(folder) = pointer.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let path = std::fs::canonicalize(data_dir)?;
    let new = pointer.with_extension("new");
    std::fs::write(&new, format!("{}\n", path.display()))?;
    std::fs::rename(new, pointer)
}

/// A folder of the XDG base directory specification: the variable's, or the one under the home folder.
pub(crate) fn user_folder(variable: &str, under_home: &str) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    std::env::var_os(variable)
        .map(PathBuf::from)
        .and_then(absolute)
        .or_else(|| std::env::home_dir().and_then(absolute).map(|home| home.join(under_home)))
}

/// The pointer to this user's hub as it was, put back when dropped: a hub for a moment must not stay in it.
#[derive(Debug)]
pub(crate) struct Pointer {
    path: Option<PathBuf>,
    before: Option<Vec<u8>>,
}

impl Pointer {
    pub(crate) fn remember() -> Self {
        let path = Places::of_this_user().pointer;
        let before = path.as_ref().and_then(|path| std::fs::read(path).ok());
        Self { path, before }
    }
}

impl Drop for Pointer {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        let restored = match &self.before {
            Some(before) => std::fs::write(path, before),
            None => std::fs::remove_file(path),
        };
        if let Err(error) = restored {
            tracing::debug!(%error, "the pointer to this user's hub was not put back");
        }
    }
}

fn local_hub(places: &Places, url: Option<&str>) -> Result<ClientFile, Failure> {
    let pointed = places.pointer.as_ref().and_then(|pointer| std::fs::read_to_string(pointer).ok());
    let folders = pointed
        .map(|text| PathBuf::from(text.trim_end_matches('\n')))
        .into_iter()
        .chain(places.usual.clone());
    for folder in folders {
        if folder.join("client.json").exists() {
            return read_client_file(&folder);
        }
    }
    Err(match url {
        Some(url) => no_credential(url),
        None => Failure::new(
            exit::CONFIG,
            "no_hub",
            "no hub is known on this machine: start one with `muster hub` or `muster demo`, name its data folder with \
             --data-dir, or give --hub URL and --credential-file FILE",
        ),
    })
}

fn no_credential(url: &str) -> Failure {
    Failure::new(
        exit::NOT_PERMITTED,
        "no_credential",
        format!("there is no credential for {url}: give the one for it with --credential-file FILE"),
    )
}

fn read_client_file(data_dir: &Path) -> Result<ClientFile, Failure> {
    let path = data_dir.join("client.json");
    let text = std::fs::read(&path).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "start a hub with `muster hub --data-dir` on this folder first",
            std::io::ErrorKind::PermissionDenied => "only the user who runs the hub may read it",
            _ => "see that it can be read",
        };
        let exit = if error.kind() == std::io::ErrorKind::PermissionDenied {
            exit::NOT_PERMITTED
        } else {
            exit::CONFIG
        };
        Failure::new(exit, "no_hub", format!("cannot read {}: {error}; {hint}", path.display()))
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::new(
            exit::CONFIG,
            "invalid_client_file",
            format!("{} is not what a hub writes: {error}", path.display()),
        )
    })
}

fn read_credential(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(
            exit::CONFIG,
            "no_credential",
            format!("cannot read the credential in {}: {error}", file.display()),
        )
    })?;
    match text.trim() {
        "" => {
            let message = format!("{} is empty: it should hold a credential", file.display());
            Err(Failure::new(exit::CONFIG, "no_credential", message))
        }
        credential => Ok(credential.to_owned()),
    }
}

fn same_address(one: &str, other: &str) -> bool {
    let parts =
        |text: &str| text.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
    match (parts(one), parts(other)) {
        (Some(one), Some(other)) => {
            one.replace("localhost", "127.0.0.1") == other.replace("localhost", "127.0.0.1")
        }
        _ => false,
    }
}

/// The credential would be readable on the way; and no hub listens there without TLS.
fn refuse_plaintext_off_loopback(url: &str) -> Result<(), Failure> {
    let uri: Uri = url.parse().map_err(|_| bad_url(url))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if is_loopback(host) => Ok(()),
        (Some("http" | "https"), Some(host)) => Err(Failure::usage(format!(
            "this build speaks to hubs on loopback only: tunnel to it (`ssh -L 7070:127.0.0.1:7070 {host}`) and give \
             --hub http://127.0.0.1:7070"
        ))),
        _ => Err(bad_url(url)),
    }
}

fn bad_url(url: &str) -> Failure {
    Failure::usage(format!("{url:?} is not a hub's address: expected one such as http://127.0.0.1:7070"))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Homes {
        root: tempfile::TempDir,
    }

    impl Homes {
        fn new() -> Self {
            Self { root: tempfile::tempdir().unwrap() }
        }

        fn hub(&self, name: &str, port: u16) -> PathBuf {
            let dir = self.root.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            let text =
                format!(r#"{{"grpc":"http://127.0.0.1:{port}","http":"http://x","credential":"{name}"}}"#);
            std::fs::write(dir.join("client.json"), text).unwrap();
            dir
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.root.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn places(&self, pointer: Option<&str>) -> Places {
            Places {
                pointer: pointer.map(|text| self.file("local-hub", text)),
                usual: Some(self.root.path().join("usual")),
            }
        }
    }

    fn credential_of(connection: &Connection, places: &Places) -> Result<String, String> {
        Target::find(connection, places).map(|target| target.credential).map_err(|failure| failure.code)
    }

    #[test]
    fn what_is_said_wins_over_what_is_found() {
        let homes = Homes::new();
        let pointed = homes.hub("pointed", 1);
        let named = homes.hub("named", 2);
        homes.hub("usual", 3);
        let places = homes.places(Some(&format!("{}\n", pointed.display())));

        let mut connection = Connection::default();
        assert_eq!(credential_of(&connection, &places).as_deref(), Ok("pointed"));
        connection.data_dir = Some(named);
        assert_eq!(credential_of(&connection, &places).as_deref(), Ok("named"));
        connection.hub = Some("http://127.0.0.1:9".into());
        connection.credential_file = Some(homes.file("secret", " abc\n"));
        let target = Target::find(&connection, &places).unwrap();
        assert_eq!(target, Target { url: "http://127.0.0.1:9".into(), credential: "abc".into() });
    }

    #[test]
    fn a_stale_pointer_falls_back_to_the_usual_folder() {
        let homes = Homes::new();
        let places = homes.places(Some("/nowhere/at/all"));
        assert_eq!(credential_of(&Connection::default(), &places), Err("no_hub".into()));
        homes.hub("usual", 3);
        assert_eq!(credential_of(&Connection::default(), &places).as_deref(), Ok("usual"));
    }

    #[test]
    fn a_found_credential_goes_only_to_the_hub_that_made_it() {
        let homes = Homes::new();
        homes.hub("usual", 7070);
        let places = homes.places(None);
        let to = |url: &str| Connection { hub: Some(url.into()), ..Connection::default() };
        assert_eq!(credential_of(&to("http://localhost:7070"), &places).as_deref(), Ok("usual"));
        assert_eq!(credential_of(&to("http://127.0.0.1:7171"), &places), Err("no_credential".into()));
    }

    #[test]
    fn plaintext_stays_on_this_machine() {
        for good in ["http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:7070"] {
            assert!(refuse_plaintext_off_loopback(good).is_ok(), "{good}");
        }
        for bad in
            ["http://10.0.0.1:7070", "https://hub.example.org", "http://127.0.0.1.example.org", "hub", ""]
        {
            assert_eq!(refuse_plaintext_off_loopback(bad).unwrap_err().exit, exit::USAGE, "{bad}");
        }
    }
}
