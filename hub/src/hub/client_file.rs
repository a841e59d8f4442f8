//! What the hub leaves for commands on the same machine, so that nobody there has to type an address or a token.

use std::path::Path;

use crate::auth::write_private;
use crate::error::{ErrorCode, HubError};
use crate::hub::Addresses;

/// In the data folder: addresses and the administrator's credential, readable by its owner alone.
const CLIENT_FILE: &str = "client.json";

pub(super) fn write(data_dir: &Path, addresses: Addresses, credential: &str) -> Result<(), HubError> {
    let path = data_dir.join(CLIENT_FILE);
    let text = serde_json::json!({
        "grpc": format!("http://{}", addresses.grpc),
        "http": format!("http://{}", addresses.http),
        "credential": credential,
    });
    write_private(&path, &format!("{text:#}\n"))
        .map_err(|error| HubError::new(ErrorCode::Config, format!("{}: {error}", path.display())))
}
