//! RD Gateway clients that authenticate again while their session goes on
//! (MS-TSGU 2.2.10.12): whom to ask, who is to be believed, whose time is up.
//!
//! ```text
//! began ─► reauthenticate_after_ms ─► asked, with the tunnel's context
//!   ▲                                   │ another tunnel brings the context, and
//!   └── the broker: the same user's ◄───┤ a token
//!                                       └─► reauthentication_timeout_ms ─► ended
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;

use super::Control;
use super::tokens::Asker;
use crate::config::gateway::GatewayLimits;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::SessionId;
use crate::core::secret::Secret;
use crate::gateway::relay::Command;
use crate::observe::close_reason::CloseReason;

/// Sessions that are asked in one look. Each is a command to a worker, whose
/// queue new sessions need as well.
const ASKED_AT_ONCE_MAX: usize = 256;

/// Sessions whose clients can authenticate again. One entry each, of live
/// sessions alone.
#[derive(Debug, Default)]
pub(super) struct Reauthentications {
    sessions: HashMap<SessionId, Tunnel>,
    by_context: HashMap<u64, SessionId>,
    /// When those were asked that have not answered.
    asked_at_ms: HashMap<SessionId, u64>,
}

#[derive(Debug)]
struct Tunnel {
    /// Known to its client alone, once it was asked.
    context: u64,
    /// The session began, or its client authenticated last.
    since_ms: u64,
}

/// `reauthenticate_after_ms` and `reauthentication_timeout_ms`.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// 0: never.
    after_ms: u64,
    timeout_ms: u64,
}

impl From<&GatewayLimits> for Rules {
    fn from(limits: &GatewayLimits) -> Self {
        Self {
            after_ms: limits.reauthenticate_after_ms,
            timeout_ms: limits.reauthentication_timeout_ms,
        }
    }
}

impl Reauthentications {
    /// `false` if the context is another session's, or the session known.
    fn begin(&mut self, session: SessionId, context: u64, now_ms: u64) -> bool {
        let Entry::Vacant(by_context) = self.by_context.entry(context) else { return false };
        let Entry::Vacant(tunnel) = self.sessions.entry(session) else { return false };
        by_context.insert(session);
        tunnel.insert(Tunnel { context, since_ms: now_ms });
        true
    }

    pub(super) fn session_over(&mut self, session: SessionId) {
        self.asked_at_ms.remove(&session);
        if let Some(tunnel) = self.sessions.remove(&session) {
            self.by_context.remove(&tunnel.context);
        }
    }

    fn session_of(&self, context: u64) -> Option<SessionId> {
        self.by_context.get(&context).copied()
    }

    /// `false` if it is not known any more.
    fn succeeded(&mut self, session: SessionId, now_ms: u64) -> bool {
        self.asked_at_ms.remove(&session);
        let Some(tunnel) = self.sessions.get_mut(&session) else { return false };
        tunnel.since_ms = now_ms;
        true
    }

    /// Sessions that are to be asked now, and their contexts; then say
    /// [`Reauthentications::asked`] of each that was.
    fn due(&self, rules: Rules, now_ms: u64) -> Vec<(SessionId, u64)> {
        if rules.after_ms == 0 {
            return Vec::new();
        }
        let due = self.sessions.iter().filter(|(session, tunnel)| {
            now_ms.saturating_sub(tunnel.since_ms) >= rules.after_ms
                && !self.asked_at_ms.contains_key(*session)
        });
        due.map(|(session, tunnel)| (*session, tunnel.context)).take(ASKED_AT_ONCE_MAX).collect()
    }

    fn asked(&mut self, session: SessionId, now_ms: u64) {
        self.asked_at_ms.insert(session, now_ms);
    }

    /// Takes back what was asked: whoever would answer now would not be heard.
    fn ask_nobody(&mut self) {
        self.asked_at_ms.clear();
    }

    /// Removes the sessions whose time is up.
    fn take_overdue(&mut self, rules: Rules, now_ms: u64) -> Vec<SessionId> {
        let asked = self.asked_at_ms.iter();
        let overdue = asked.filter(|(_, asked)| now_ms.saturating_sub(**asked) >= rules.timeout_ms);
        let overdue: Vec<SessionId> = overdue.map(|(session, _)| *session).collect();
        for session in &overdue {
            self.session_over(*session);
        }
        overdue
    }
}

impl Control {
    /// A session begins whose client can.
    pub(super) fn expect_to_reauthenticate(&mut self, session: SessionId) {
        let now_ms = self.now_ms();
        let mut context = [0; 8];
        let random = aws_lc_rs::rand::fill(&mut context).is_ok();
        let context = u64::from_le_bytes(context);
        if !random || !self.reauthentications.begin(session, context, now_ms) {
            tracing::error!(%session, "No tunnel context: it will not be asked to authenticate");
        }
    }

    /// Somebody has a context and a token.
    pub(super) fn reauthenticate(
        &mut self,
        context: u64,
        bearer: Secret,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        match self.reauthentications.session_of(context) {
            Some(session) => {
                self.check_token(bearer, Asker::Reauthentication { session, answer });
            }
            None => drop(answer.send(Err(Code::SessionUnknown.into()))),
        }
    }

    /// The broker says that it is the same user.
    pub(super) fn reauthenticated(&mut self, session: SessionId) -> Result<(), Refusal> {
        let now_ms = self.now_ms();
        if !self.reauthentications.succeeded(session, now_ms) {
            return Err(Code::SessionUnknown.into());
        }
        tracing::info!(step = 11, %session, "Authenticated again");
        Ok(())
    }

    /// About once a second.
    pub(super) fn see_to_reauthentications(&mut self) {
        let rules = Rules::from(&self.shared.config().limits);
        let somebody_would_listen = self.broker_compares_users
            && self.shared.broker_connected.load(Relaxed)
            && !self.shared.is_draining();
        if rules.after_ms == 0 || !somebody_would_listen {
            return self.reauthentications.ask_nobody();
        }
        let now_ms = self.now_ms();
        for session in self.reauthentications.take_overdue(rules, now_ms) {
            self.end(session, CloseReason::NotReauthenticated);
        }
        for (session, context) in self.reauthentications.due(rules, now_ms) {
            // A worker that takes no orders now is told at the next look.
            let command = Command::Reauthenticate { session, context };
            if self.worker_of(session).is_some_and(|worker| worker.tell(command).is_ok()) {
                self.reauthentications.asked(session, now_ms);
                tracing::info!(step = 11, %session, "Asked a client to authenticate again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { after_ms: 100, timeout_ms: 30 };
    const ANN: SessionId = SessionId([1; 16]);
    const BOB: SessionId = SessionId([2; 16]);

    fn begun() -> Reauthentications {
        let mut table = Reauthentications::default();
        assert!(table.begin(ANN, 7, 1_000) && table.begin(BOB, 8, 1_050));
        table
    }

    #[test]
    fn each_is_asked_once_when_its_session_is_old_enough() {
        let mut table = begun();
        assert_eq!(table.due(RULES, 1_099), []);
        assert_eq!(table.due(RULES, 1_100), [(ANN, 7)]);
        // Its worker took no orders.
        assert_eq!(table.due(RULES, 1_110), [(ANN, 7)]);
        table.asked(ANN, 1_110);
        assert_eq!(table.due(RULES, 1_149), []);
        assert_eq!(table.due(RULES, 1_150), [(BOB, 8)]);
    }

    #[test]
    fn nobody_is_asked_unless_that_is_configured() {
        let rules = Rules { after_ms: 0, ..RULES };
        assert_eq!(begun().due(rules, u64::MAX), []);
    }

    #[test]
    fn who_does_not_answer_in_time_is_over_and_its_context_means_nothing() {
        let mut table = begun();
        table.asked(ANN, 1_110);
        assert_eq!(table.take_overdue(RULES, 1_139), []);
        assert_eq!(table.session_of(7), Some(ANN));
        assert_eq!(table.take_overdue(RULES, 1_140), [ANN]);
        assert_eq!(table.take_overdue(RULES, 2_000), []);
        assert_eq!(table.session_of(7), None);
        assert!(!table.succeeded(ANN, 1_141), "too late");
        assert_eq!(table.session_of(8), Some(BOB));
    }

    #[test]
    fn success_starts_the_clock_anew() {
        let mut table = begun();
        table.asked(ANN, 1_110);
        assert!(table.succeeded(ANN, 1_120));
        assert_eq!(table.take_overdue(RULES, 1_200), []);
        table.asked(BOB, 1_150);
        assert_eq!(table.due(RULES, 1_219), []);
        assert_eq!(table.due(RULES, 1_220), [(ANN, 7)]);
    }

    #[test]
    fn while_nobody_would_be_heard_no_time_runs() {
        let mut table = begun();
        table.asked(ANN, 1_110);
        table.ask_nobody();
        assert_eq!(table.take_overdue(RULES, 9_000), []);
        assert_eq!(table.due(Rules { after_ms: 7_960, ..RULES }, 9_000), [(ANN, 7)]);
        // What was asked before still counts.
        assert!(table.succeeded(ANN, 9_000));
    }

    #[test]
    fn nothing_is_kept_of_a_session_that_is_over() {
        let mut table = begun();
        table.asked(ANN, 1_110);
        table.session_over(ANN);
        table.session_over(BOB);
        assert!(table.sessions.is_empty() && table.by_context.is_empty());
        assert!(table.asked_at_ms.is_empty());
    }

    #[test]
    fn no_two_sessions_have_one_context() {
        let mut table = begun();
        assert!(!table.begin(SessionId([3; 16]), 7, 0));
        assert!(!table.begin(ANN, 9, 0));
        assert_eq!((table.session_of(7), table.session_of(9)), (Some(ANN), None));
    }

    #[test]
    fn a_crowd_is_asked_in_parts() {
        let mut table = Reauthentications::default();
        for number in 0..600_u64 {
            table.begin(SessionId(u128::from(number).to_be_bytes()), number, 0);
        }
        for expected in [256, 256, 88, 0] {
            let due = table.due(RULES, 500);
            assert_eq!(due.len(), expected);
            for (session, _) in due {
                table.asked(session, 500);
            }
        }
    }
}
