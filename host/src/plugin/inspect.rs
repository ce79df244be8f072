//! Reads what a component exports and imports, before anything of it is compiled.

use wasmparser::{Encoding, Parser, Payload};

use crate::error::{Error, Kind, Result};

/// Names at the outermost level of a component.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    /// What it exports.
    pub(crate) exports: Vec<String>,
    /// What it imports.
    pub(crate) imports: Vec<String>,
}

/// Reads the names.
///
/// # Errors
/// `PluginNotComponent`, with what it is instead.
pub(crate) fn interfaces(bytes: &[u8]) -> Result<Interfaces> {
    let not_component = |what: String| Error::new(Kind::PluginNotComponent, what);
    if !bytes.starts_with(b"\0asm") {
        return Err(not_component("this is no WebAssembly file".to_owned()));
    }
    let mut found = Interfaces::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload =
            payload.map_err(|error| not_component(format!("the file is damaged: {error}")))?;
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                return Err(not_component(
                    "this is a core WebAssembly module, not a component".to_owned(),
                ));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(|error| not_component(error.to_string()))?;
                    found.imports.push(import.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(|error| not_component(error.to_string()))?;
                    found.exports.push(export.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
