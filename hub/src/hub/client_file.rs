//! What the hub leaves for commands on the same machine, so that nobody there has to type an address or a token.

use std::fs;
use std::path::{Path, PathBuf};

use crate::auth::write_private;
use crate::error::{ErrorCode, HubError};
use crate::hub::Addresses;

/// In the data folder: addresses and the administrator's credential, readable by its owner alone.
const CLIENT_FILE: &str = "client.json";
/// In the user's configuration folder: the data folder of the hub that was started last.
const POINTER_FILE: &str = "local-hub";

/// Writes both files. The second is a convenience: where it cannot be written the log says so and nothing else happens.
pub(super) fn write(data_dir: &Path, addresses: Addresses, credential: &str) -> Result<(), HubError> {
    let path = data_dir.join(CLIENT_FILE);
    let text = serde_json::json!({
        "grpc": format!("http://{}", addresses.grpc),
        "http": format!("http://{}", addresses.http),
        "credential": credential,
    });
    write_private(&path, &format!("{text:#}\n"))
        .map_err(|error| HubError::new(ErrorCode::Config, format!("{}: {error}", path.display())))?;
    if let Err(error) = point(data_dir) {
        tracing::warn!(%error, "commands on this machine need --data-dir: the pointer to it could not be written");
    }
    Ok(())
}

fn point(data_dir: &Path) -> std::io::Result<()> {
    let Some(folder) = config_dir() else { return Ok(()) };
    fs::create_dir_all(&folder)?;
    let data_dir = fs::canonicalize(data_dir)?;
    write_private(&folder.join(POINTER_FILE), &format!("{}\n", data_dir.display()))
}

fn config_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(base.join("muster"))
}
