//! Where the server is, and what its errors mean: what a person must change, what passes by itself. Never the password.

use std::path::Path;
use std::sync::Arc;

use redis::{Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisError, TlsCertificates};
use thiserror::Error;

use crate::store::{StoreError, StoreResult};

/// The parameter of a `rediss://` URL that names a file with the certificates to trust in place of the system's.
const CA_FILE: &str = "tls_ca";

/// A server, as a URL names it.
pub(super) struct Place {
    pub(super) client: Client,
    /// Host and port, or the socket's path: for people.
    name: String,
}

/// It did not answer in time.
#[derive(Clone, Debug, Error)]
#[error("redis at {0} does not answer in time")]
struct TooSlow(String);

/// It answered, with an error.
#[derive(Debug, Error)]
#[error("redis at {place}: {source}")]
struct Told {
    place: String,
    source: RedisError,
}

impl Place {
    /// Reads a URL; blocks for the file that it may name.
    pub(super) fn parse(url: &str) -> StoreResult<Self> {
        // The URL itself is never repeated: it may hold a password.
        let bad = |what: &str| {
            StoreError::refused(format!(
                "the Redis URL {what}: use redis://[user:password@]host[:port][/db], rediss:// for TLS, or \
                 unix:///path/to/socket"
            ))
        };
        let mut url = redis::parse_redis_url(url).ok_or_else(|| bad("is not one"))?;
        if url.fragment().is_some() {
            return Err(bad("has a fragment, which means nothing here"));
        }
        let ca_file = url.query_pairs().find(|(key, _)| key == CA_FILE).map(|(_, file)| file.into_owned());
        if ca_file.is_some() {
            let rest: Vec<_> = url.query_pairs().into_owned().filter(|(key, _)| key != CA_FILE).collect();
            url.set_query(None);
            if !rest.is_empty() {
                url.query_pairs_mut().extend_pairs(rest);
            }
        }
        let info = url.into_connection_info().map_err(|error| bad(&format!("cannot be used ({error})")))?;
        let settings = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(settings);
        let name = info.addr().to_string();
        let client = match (&ca_file, info.addr()) {
            (None, _) => Client::open(info),
            (Some(file), ConnectionAddr::TcpTls { .. }) => {
                let root_cert = Some(read_ca(file)?);
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            (Some(_), _) => return Err(bad("names certificates and does not use TLS")),
        };
        let client = client.map_err(|error| bad(&format!("cannot be used ({error})")))?;
        Ok(Self { client, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn too_slow(&self) -> StoreError {
        StoreError::Unavailable(Arc::new(TooSlow(self.name.clone())))
    }

    /// What an error means.
    pub(super) fn fault(&self, error: RedisError) -> StoreError {
        let place = self.name.clone();
        let refused = |what: String, source| StoreError::Refused { what, source: Some(Arc::new(source)) };
        // TLS's own errors come wrapped as those of reading and writing; only their words tell them apart.
        let untrusted = matches!(error.kind(), ErrorKind::Io) && error.to_string().contains("certificate");
        // Servers before 7.0 put the code of a script's error into its text.
        let in_script =
            |code: &str| error.code() == Some("ERR") && detail(&error).contains(&format!("-{code} "));
        let code = ["OOM", "MISCONF", "READONLY"].into_iter().find(|code| in_script(code));
        let code = code.or(error.code()).unwrap_or_default().to_owned();
        match (error.kind(), code.as_str()) {
            (ErrorKind::AuthenticationFailed, _) | (_, "WRONGPASS" | "NOAUTH") => refused(
                format!("redis at {place} does not accept the user and password of the URL: correct them"),
                error,
            ),
            (_, "NOPERM") => refused(
                format!(
                    "the Redis user may not do what a terminal log needs ({}): allow it `+@all -@admin` on the keys \
                     `muster:*`",
                    detail(&error)
                ),
                error,
            ),
            (_, "READONLY") => refused(
                format!("redis at {place} is a read-only replica: give the URL of its primary"),
                error,
            ),
            (ErrorKind::InvalidClientConfig, _) => {
                refused(format!("redis at {place} cannot be used: {}", detail(&error)), error)
            }
            _ if untrusted => refused(
                format!(
                    "redis at {place} shows a certificate that is not trusted: name its authority by ?{CA_FILE}=FILE"
                ),
                error,
            ),
            // Everything else that a server says passes, or is nothing that another URL would change: out of memory, its
            // disk full, still loading, without a primary, busy with a script.
            (ErrorKind::Io, _)
            | (_, "OOM" | "MISCONF" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY") => {
                StoreError::Unavailable(Arc::new(Told { place, source: error }))
            }
            _ if error.is_unrecoverable_error() => {
                StoreError::Unavailable(Arc::new(Told { place, source: error }))
            }
            _ => StoreError::Failed(Arc::new(Told { place, source: error })),
        }
    }
}

fn detail(error: &RedisError) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_owned)
}

fn read_ca(file: &str) -> StoreResult<Vec<u8>> {
    std::fs::read(Path::new(file)).map_err(|error| StoreError::Refused {
        what: format!(
            "the file {file} with the certificates to trust cannot be read: correct {CA_FILE} in the URL"
        ),
        source: Some(Arc::new(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        for url in [
            "redis://user:hunter2@",
            "redis://user:hunter2@host/none",
            "redis://user:hunter2@host#insecure",
            "rediss://user:hunter2@host?tls_ca=/nowhere/ca.pem",
            "redis://user:hunter2@host?tls_ca=/nowhere/ca.pem",
            "http://user:hunter2@host",
            "hunter2",
        ] {
            let error = Place::parse(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert!(matches!(error, StoreError::Refused { .. }), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn what_urls_say_is_understood() {
        for (url, name) in [
            ("redis://host", "host:6379"),
            ("redis://user:p%40ss@host:7000/3", "host:7000"),
            ("rediss://host", "host:6379"),
            ("unix:///run/redis.sock?db=2", "/run/redis.sock"),
        ] {
            assert_eq!(Place::parse(url).unwrap().name(), name);
        }
        let place = Place::parse("redis://user:p%40ss@host:7000/3").unwrap();
        let settings = place.client.get_connection_info().redis_settings();
        assert_eq!(
            (settings.username(), settings.password(), settings.db()),
            (Some("user"), Some("p@ss"), 3)
        );
    }
}
