//! `valor storage`: the storagedata service's process.
use super::ServeArgs;
use crate::overrides::Overrides;
pub async fn run(_args: ServeArgs, _overrides: Overrides) -> Result<(), String> {
    Err("x".into())
}
