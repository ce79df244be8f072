//! The first-party plugins as components with their manifests, embedded: one file is a whole
//! installation. The build script compiles them.

/// One first-party plugin.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    /// Its name, as in `builtin:NAME`.
    pub name: &'static str,
    /// The component.
    pub component: &'static [u8],
    /// Text of its `plugin.toml`.
    pub manifest: &'static str,
}

/// Every first-party plugin, by name.
pub const ALL: &[Builtin] = include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// The SDK for Rust and the contract as files, path and text: what a plugin that is begun with this
/// program is built against.
pub const SDK: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// Finds a plugin.
pub fn find(name: &str) -> Option<&'static Builtin> {
    ALL.iter().find(|builtin| builtin.name == name)
}

/// The component of a plugin.
pub fn builtin(name: &str) -> Option<&'static [u8]> {
    find(name).map(|builtin| builtin.component)
}

/// The names of all plugins.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|builtin| builtin.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_is_a_component_and_has_a_manifest_of_its_name() {
        assert!(names().count() >= 2);
        for builtin in ALL {
            // Magic, then the version and layer that tell a component from a core module.
            assert_eq!(builtin.component.get(..8), Some(b"\0asm\x0d\0\x01\0".as_slice()));
            assert!(builtin.manifest.contains(&format!("name = \"{}\"", builtin.name)));
        }
        assert!(find("nothing").is_none());
    }

    #[test]
    fn the_sdk_stands_by_itself() {
        let text = |path: &str| SDK.iter().find(|(name, _)| *name == path).unwrap().1;
        let manifest = text("sdk/Cargo.toml");
        assert!(
            !manifest.contains("workspace") && manifest.contains("wit-bindgen = {"),
            "{manifest}"
        );
        assert!(manifest.contains("version = \"0.1.0\"") && manifest.contains("optional = true"));
        assert!(text("sdk/src/lib.rs").contains("DocumentFilter"));
        assert!(text("wit/document-filter.wit").contains("world document-filter"));
        assert!(text("wit/deps/syncline-host/log.wit").contains("interface log"));
    }
}
