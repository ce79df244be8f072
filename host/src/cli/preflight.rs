//! What a preflight found, and the roles that a sync needs, as text and as JSON.

use std::io::Write;

use bson::{Bson, Document};
use serde_json::{Value, json};

use crate::{
    client::Output,
    error::Result,
    model::facts::{Finding, Report},
    telemetry::redact,
};

/// Width of the columns before the text.
const CHECK_WIDTH: usize = 21;
/// Width of the name of a side.
const CLUSTER_WIDTH: usize = 12;

/// Prints a report to stdout.
///
/// # Errors
/// The report's refusal, when a sync could not begin.
pub fn show(report: &Report, output: Output) -> Result<()> {
    print(&match output {
        Output::Text => table(report),
        Output::Json => format!("{:#}", object(report)),
    });
    report.refusal().map_or(Ok(()), Err)
}

/// Prints `createRole` commands to stdout, each with the side that it is for.
pub fn show_roles(roles: &[(&'static str, Document)], output: Output) {
    let json = |role: &Document| Bson::Document(role.clone()).into_relaxed_extjson();
    print(&match output {
        Output::Text => roles
            .iter()
            .map(|(side, role)| {
                format!("// on the {side}\ndb.getSiblingDB(\"admin\").runCommand({:#})", json(role))
            })
            .collect::<Vec<_>>()
            .join("\n\n"),
        Output::Json => {
            let all: serde_json::Map<String, Value> =
                roles.iter().map(|(side, role)| ((*side).to_owned(), json(role))).collect();
            format!("{:#}", Value::Object(all))
        }
    });
}

/// Writes a line to stdout; a reader that went away is no failure.
fn print(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// A line per finding, and under it everything concerned by name.
fn table(report: &Report) -> String {
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(format!(
            "{:5}{:CHECK_WIDTH$}{:CLUSTER_WIDTH$}{}",
            finding.grade.name(),
            finding.check,
            finding.cluster,
            detail(finding)
        ));
        let indent = 5 + CHECK_WIDTH + CLUSTER_WIDTH;
        lines.extend(finding.items.iter().map(|item| format!("{:indent$}- {item}", "")));
    }
    lines.join("\n")
}

/// The report as an object.
fn object(report: &Report) -> Value {
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.check,
                "cluster": finding.cluster,
                "result": finding.grade.name(),
                "detail": detail(finding),
                "items": finding.items,
                "error": finding.kind.map(crate::error::Kind::name),
                "code": finding.kind.map(crate::error::Kind::code),
                "advice": finding.kind.map(crate::error::Kind::advice),
            })
        })
        .collect();
    json!({ "success": report.refusal().is_none(), "findings": findings })
}

/// The sentence of a finding; a cluster's own words may hold a connection string.
fn detail(finding: &Finding) -> String {
    redact::text(&finding.detail).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn report() -> Report {
        Report {
            findings: vec![
                Finding::ok("version", "source", "6.0.5"),
                Finding::fail("privileges", "destination", Kind::PermissionDenied, "lacking")
                    .with_items(vec!["insert on every database".into(), "x".into()]),
                Finding::warn("oplog", "source", "at mongodb://u:pl4nted@h/"),
            ],
        }
    }

    #[test]
    fn the_table_has_a_line_per_finding_and_per_name() {
        assert_eq!(
            table(&report())
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>(),
            [
                "ok version source 6.0.5",
                "fail privileges destination lacking",
                "- insert on every database",
                "- x",
                "warn oplog source at mongodb://***@h/",
            ]
        );
    }

    #[test]
    fn the_object_has_codes_and_no_secret() {
        let object = object(&report());
        assert_eq!(object["success"], false);
        assert_eq!(object["findings"][1]["code"], "SYNC-1105");
        assert_eq!(object["findings"][1]["items"][0], "insert on every database");
        assert_eq!(object["findings"][0]["error"], Value::Null);
        assert!(!object.to_string().contains("pl4nted"));
    }
}
