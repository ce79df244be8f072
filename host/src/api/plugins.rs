//! The body of `/api/v1/plugins`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::plugin::{NamespaceCounters, PluginInfo};

/// All plugins.
pub(super) fn body(plugins: &[PluginInfo]) -> Value {
    json!({"success": true, "plugins": plugins.iter().map(one).collect::<Vec<_>>()})
}

/// One plugin.
fn one(plugin: &PluginInfo) -> Value {
    let grants = &plugin.grants;
    let counters = plugin.counters;
    json!({
        "name": plugin.name,
        "world": plugin.world.name(),
        "version": plugin.version,
        "contractVersion": plugin.contract_version,
        "component": plugin.component,
        "digest": format!("sha256:{}", plugin.digest),
        "grants": {
            "origins": grants.origins,
            "env": grants.env,
            "files": grants.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "secrets": grants
                .secrets
                .iter()
                .map(|(name, source)| (name.clone(), source.to_string()))
                .collect::<BTreeMap<_, _>>(),
            "clock": grants.clock,
            "interaction": grants.interaction,
        },
        "instances": plugin.instances,
        "counters": {
            "calls": counters.calls,
            "errors": counters.errors,
            "kept": counters.kept,
            "dropped": counters.dropped,
            "replaced": counters.replaced,
            "p50Micros": counters.p50_micros,
            "p99Micros": counters.p99_micros,
        },
        "namespaces": plugin.namespaces.iter().map(namespace).collect::<Vec<_>>(),
    })
}

/// What a filter did with the documents of one collection.
fn namespace(counters: &NamespaceCounters) -> Value {
    json!({
        "namespace": counters.namespace,
        "kept": counters.kept,
        "dropped": counters.dropped,
        "replaced": counters.replaced,
        "errors": counters.errors,
    })
}
