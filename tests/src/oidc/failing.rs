//! The fail point `failCommand` for commands that the server behind never sees.

use std::sync::{Mutex, PoisonError};

use bson::{Bson, Document};

/// The commands.
const OURS: [&str; 2] = ["saslStart", "saslContinue"];

/// The fail point, if it is set.
#[derive(Default)]
pub(super) struct Failing {
    /// What is set.
    set: Mutex<Option<Set>>,
}

/// What is set.
struct Set {
    /// Commands that fail.
    commands: Vec<String>,
    /// How often yet; `None` is always.
    times: Option<i64>,
    /// `errorCode`
    code: Option<i32>,
    /// `closeConnection`
    closes: bool,
    /// `appName`
    app_name: Option<String>,
}

/// What a command meets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// This error.
    Code(i32),
    /// The end of its connection.
    Close,
}

impl Failing {
    /// Reads `configureFailPoint`; other commands change nothing.
    pub(super) fn configure(&self, command: &Document) {
        if command.get_str("configureFailPoint").ok() != Some("failCommand") {
            return;
        }
        let data = command.get_document("data").cloned().unwrap_or_default();
        let commands: Vec<String> = data
            .get_array("failCommands")
            .map(|list| list.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let times = match command.get("mode") {
            Some(Bson::Document(mode)) => Some(number(mode.get("times")).unwrap_or(1)),
            Some(Bson::String(mode)) if mode == "alwaysOn" => None,
            _ => Some(0),
        };
        let is_ours = commands.iter().any(|name| OURS.contains(&name.as_str()));
        let set = (is_ours && times != Some(0)).then(|| Set {
            commands,
            times,
            code: number(data.get("errorCode")).and_then(|code| i32::try_from(code).ok()),
            closes: data.get_bool("closeConnection").unwrap_or(false),
            app_name: data.get_str("appName").ok().map(str::to_owned),
        });
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = set;
    }

    /// What a command of a client with this name meets, and counts it.
    pub(super) fn meet(&self, command: &str, app_name: Option<&str>) -> Option<Failure> {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let present = set.as_mut()?;
        let is_meant = present.commands.iter().any(|name| name == command)
            && present.app_name.as_deref().is_none_or(|wanted| Some(wanted) == app_name);
        if !is_meant {
            return None;
        }
        let failure = match (present.closes, present.code) {
            (true, _) => Failure::Close,
            (false, Some(code)) => Failure::Code(code),
            (false, None) => return None,
        };
        if let Some(times) = &mut present.times {
            *times -= 1;
            if *times <= 0 {
                *set = None;
            }
        }
        Some(failure)
    }
}

/// A whole number of whatever type.
fn number(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_fail_point_is_met_as_often_as_it_says() {
        let failing = Failing::default();
        let point = |mode: Bson, data: Document| {
            failing.configure(
                &doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data },
            );
        };
        let data = doc! { "failCommands": ["saslStart"], "errorCode": 18, "appName": "a" };
        point(doc! { "times": 2 }.into(), data.clone());
        assert_eq!(failing.meet("saslStart", Some("b")), None);
        assert_eq!(failing.meet("saslContinue", Some("a")), None);
        assert_eq!(failing.meet("saslStart", Some("a")), Some(Failure::Code(18)));
        assert_eq!(failing.meet("saslStart", Some("a")), Some(Failure::Code(18)));
        assert_eq!(failing.meet("saslStart", Some("a")), None);
        point("alwaysOn".into(), doc! { "failCommands": ["saslStart"], "closeConnection": true });
        assert_eq!(failing.meet("saslStart", None), Some(Failure::Close));
        assert_eq!(failing.meet("saslStart", None), Some(Failure::Close));
        point("off".into(), doc! {});
        assert_eq!(failing.meet("saslStart", None), None);
        point("alwaysOn".into(), doc! { "failCommands": ["find"], "errorCode": 1 });
        assert_eq!(failing.meet("saslStart", None), None);
    }
}
