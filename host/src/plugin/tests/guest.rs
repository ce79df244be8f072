//! Guests written in WebAssembly text against the WIT files of this repository. They do what no SDK
//! would let them do, and need no toolchain.

use std::path::Path;

use tempfile::TempDir;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use crate::model::plugin::{ComponentSource, Grants, LimitOverrides, PluginSpec};

/// What every text guest has: memory, an allocator that only grows, and a page of zeros at 1024 to
/// answer with.
const COMMON: &str = r#"
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func $allocate (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $fits (i32.ne (i32.const -1)
        (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
      unreachable)
    (local.get $at))
"#;

/// Parts of a filter guest that a test replaces.
pub(super) struct FilterText {
    /// Imports besides those of the contract.
    pub(super) imports: &'static str,
    /// Body of `init` before it makes the session.
    pub(super) init: &'static str,
    /// Body of `plan`; the plan is at 1024, zeros mean no replacements.
    pub(super) plan: &'static str,
    /// Body of `apply`. `$count`, `$docs` and `$len` are the batch; the answer is at 1024: a zero
    /// byte, then at 1028 verdicts, replacements and reasons, each as pointer and length.
    pub(super) apply: &'static str,
    /// World with further imports, as WIT.
    pub(super) world: Option<&'static str>,
}

impl Default for FilterText {
    fn default() -> Self {
        Self { imports: "", init: "", plan: "", apply: KEEP_ALL, world: None }
    }
}

/// Keeps every document: as many zero bytes as there are documents.
const KEEP_ALL: &str = r"
  (i32.store (i32.const 1028)
    (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
  (i32.store (i32.const 1032) (local.get $count))
";

/// A filter component.
pub(super) fn filter(text: &FilterText) -> Vec<u8> {
    let FilterText { imports, init, plan, apply, world } = text;
    let module = format!(
        r#"(module
  (import "[export]syncline:plugin/filter@0.1.0" "[resource-new]session"
    (func $new (param i32) (result i32)))
  {imports}
  {COMMON}
  (func (export "syncline:plugin/filter@0.1.0#init")
    (param i32 i32 i32 i32) (result i32)
    {init}
    (i32.store (i32.const 1024) (i32.const 0))
    (i32.store (i32.const 1028) (call $new (i32.const 7)))
    (i32.const 1024))
  (func (export "syncline:plugin/filter@0.1.0#[method]session.plan")
    (param i32) (result i32)
    (i64.store (i32.const 1024) (i64.const 0))
    (i64.store (i32.const 1032) (i64.const 0))
    {plan}
    (i32.const 1024))
  (func (export "syncline:plugin/filter@0.1.0#[method]session.apply")
    (param $self i32) (param $db i32) (param $db_len i32) (param $coll i32) (param $coll_len i32)
    (param $count i32) (param $docs i32) (param $len i32) (result i32)
    (local $i i32)
    (memory.fill (i32.const 1024) (i32.const 0) (i32.const 64))
    {apply}
    (i32.const 1024))
)"#
    );
    encode(&module, world.unwrap_or("document-filter"))
}

/// An identity component; `get_token` answers with what is at 1024, zeros by default.
pub(super) fn identity(imports: &str, get_token: &str) -> Vec<u8> {
    identity_in("identity-provider", imports, "", get_token)
}

/// An identity component of a world, which does something in `validate` too.
pub(super) fn identity_in(world: &str, imports: &str, validate: &str, get_token: &str) -> Vec<u8> {
    let module = format!(
        r#"(module
  {imports}
  {COMMON}
  (func (export "syncline:plugin/identity@0.1.0#describe") (result i32) (i32.const 1024))
  (func (export "syncline:plugin/identity@0.1.0#validate") (result i32)
    {validate}
    (i32.const 1024))
  (func (export "syncline:plugin/identity@0.1.0#get-token") (param i32) (result i32)
    {get_token}
    (i32.const 1024))
)"#
    );
    encode(&module, world)
}

/// Makes a component of a core module; `world` is a name in `wit/`, or a package of its own.
fn encode(module: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (mut package, _) = resolve.push_dir(&wit).unwrap();
    let mut name = world;
    if world.contains('{') {
        package = resolve.push_str("test.wit", world).unwrap();
        name = "test";
    }
    let world = resolve.select_world(&[package], Some(name)).unwrap();
    let mut bytes = wat::parse_str(module).unwrap();
    wit_component::embed_component_metadata(
        &mut bytes,
        &resolve,
        world,
        StringEncoding::UTF8,
        false,
    )
    .unwrap();
    let mut encoder = ComponentEncoder::default();
    encoder.module(&bytes).unwrap().validate(true).encode().unwrap()
}

/// A file in a folder that lives as long as the test.
pub(super) fn spec(folder: &TempDir, name: &str, component: &[u8]) -> PluginSpec {
    let path = folder.path().join(format!("{name}.wasm"));
    std::fs::write(&path, component).unwrap();
    PluginSpec {
        name: name.to_owned(),
        component: ComponentSource::File(path),
        digest: None,
        config: serde_json::json!({}),
        grants: Grants::default(),
        limits: LimitOverrides::default(),
    }
}
