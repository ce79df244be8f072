//! The public state machine, pure: state × command → next state or refusal.
//!
//! ```text
//! INITIALIZING ──▶ IDLE ──start──▶ RUNNING ──commit──▶ COMMITTING ──▶ COMMITTED
//!       │                           ▲   │ ▲                              │
//!       │                     resume│   │ └──────── REVERSING ◀──reverse─┘
//!       └──(as recorded)──▶         └─ PAUSED
//! ```
//!
//! A commit that meets differences goes back to RUNNING while the stream runs. `abort` leads from
//! RUNNING, PAUSED and COMMITTING to ABORTING, which ends in IDLE.
//!
//! Invariant: no I/O and no clock.

use super::Request;
use crate::{
    error::{Error, Kind, Result},
    model::progress::State,
};

/// The state that a request leads to.
///
/// # Errors
/// `AlreadyStarted` for a second start, `InvalidState` for every other request out of turn.
pub(crate) fn next(state: State, request: &Request) -> Result<State> {
    let refuse = |kind: Kind, text: String| Err(Error::new(kind, text));
    match (request, state) {
        (Request::Start(_), State::Idle) | (Request::Resume, State::Paused) => Ok(State::Running),
        (Request::Pause, State::Running) => Ok(State::Paused),
        // A commit that met duplicates may be repeated.
        (Request::Commit, State::Running | State::Committing) => Ok(State::Committing),
        (
            Request::Abort(_),
            State::Running | State::Paused | State::Committing | State::Aborting,
        ) => Ok(State::Aborting),
        (Request::Start(_), State::Running | State::Paused | State::Committing) => {
            refuse(Kind::AlreadyStarted, format!("the sync is {} already", state.name()))
        }
        // Whether the sync was started as reversible stands in its record.
        (Request::Reverse, State::Committed) => Ok(State::Reversing),
        (request, state) => refuse(
            Kind::InvalidState,
            format!(
                "`{}` needs the state {}, the sync is {}",
                name(request),
                needed(request),
                state.name()
            ),
        ),
    }
}

/// The request as the API spells it.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Start(_) => "start",
        Request::Pause => "pause",
        Request::Resume => "resume",
        Request::Commit => "commit",
        Request::Reverse => "reverse",
        Request::Abort(_) => "abort",
    }
}

/// The state in which a request is accepted.
fn needed(request: &Request) -> &'static str {
    match request {
        Request::Start(_) => "IDLE",
        Request::Pause | Request::Commit => "RUNNING",
        Request::Resume => "PAUSED",
        Request::Reverse => "COMMITTED",
        Request::Abort(_) => "RUNNING, PAUSED or COMMITTING",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::options::{ClusterLabel, Copied, StartOptions};

    fn start() -> Request {
        Request::Start(Box::new(StartOptions::new(ClusterLabel::Cluster0, ClusterLabel::Cluster1)))
    }

    #[test]
    fn every_request_is_accepted_only_in_its_state() {
        use State as S;
        let all = [
            S::Initializing,
            S::Idle,
            S::Running,
            S::Paused,
            S::Committing,
            S::Committed,
            S::Reversing,
            S::Aborting,
        ];
        let table: [(Request, &[(State, State)]); 6] = [
            (start(), &[(S::Idle, S::Running)]),
            (Request::Pause, &[(S::Running, S::Paused)]),
            (Request::Resume, &[(S::Paused, S::Running)]),
            (Request::Commit, &[(S::Running, S::Committing), (S::Committing, S::Committing)]),
            (
                Request::Abort(Copied::Keep),
                &[
                    (S::Running, S::Aborting),
                    (S::Paused, S::Aborting),
                    (S::Committing, S::Aborting),
                    (S::Aborting, S::Aborting),
                ],
            ),
            (Request::Reverse, &[(S::Committed, S::Reversing)]),
        ];
        for (request, accepted) in &table {
            for state in all {
                let expected = accepted.iter().find(|(from, _)| *from == state).map(|(_, to)| *to);
                assert_eq!(next(state, request).ok(), expected, "{request:?} in {state:?}");
            }
        }
    }

    #[test]
    fn a_second_start_says_so() {
        let error = next(State::Running, &start()).unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyStarted);
    }
}
