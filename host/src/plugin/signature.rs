//! Signatures of component files, in the form that `minisign` writes.

use std::{fs::File, io::Read, path::Path};

use minisign_verify::{PublicKey, Signature};

use crate::error::{Error, Kind, Result};

/// Longest signature file, in bytes.
const MAX_BYTES: u64 = 4096;

/// Checks the signature beside a component, `NAME.wasm.minisig`, if the operator trusts any keys.
///
/// # Errors
/// `PluginUnsigned` when there is no good signature by a trusted key; `ConfigInvalid` for a key that
/// is none.
pub(crate) fn check(trusted: &[String], component: &Path, bytes: &[u8]) -> Result<()> {
    if trusted.is_empty() {
        return Ok(());
    }
    let keys = keys(trusted)?;
    let mut name = component.as_os_str().to_owned();
    name.push(".minisig");
    let path = Path::new(&name);
    let refuse = |why: &str| Error::new(Kind::PluginUnsigned, format!("{}: {why}", path.display()));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| refuse("cannot be read").caused_by(error))?;
    let signature =
        Signature::decode(&text).map_err(|error| refuse("is no signature").caused_by(error))?;
    if keys.iter().any(|key| key.verify(bytes, &signature, false).is_ok()) {
        return Ok(());
    }
    Err(refuse("is by no key of `trustedKeys`, or is about another file"))
}

/// The operator's keys.
fn keys(trusted: &[String]) -> Result<Vec<PublicKey>> {
    let key = |text: &String| {
        PublicKey::from_base64(text).map_err(|error| {
            Error::new(Kind::ConfigInvalid, format!("trustedKeys: `{text}` is no minisign key"))
                .caused_by(error)
        })
    };
    trusted.iter().map(key).collect()
}
