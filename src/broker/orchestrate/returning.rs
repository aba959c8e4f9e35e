//! A client that comes back to its gateway by itself: stock clients do within
//! milliseconds when the host declines a kind of security, and when they lost
//! the connection.

use super::disconnect::DISCONNECTED;
use super::{Core, Judged};
use crate::core::placement::{Former, Freed, Wish};

impl Core {
    /// The wish, with what this client may have left a moment ago.
    pub(super) fn wish_of(&self, judged: &Judged) -> Wish {
        let former = judged.here_only.then(|| self.records.former(judged)).flatten();
        let former = former.map(|(session, host)| Former { session, host: host.clone() });
        Wish { former, ..judged.wish() }
    }

    /// Frees the place that the client has left, where nothing else will do.
    /// Both ends of the old session are told; the gateway's own account of its
    /// end may still come.
    pub(super) fn take_over(&mut self, wish: &Wish) {
        let Some(Freed { session, slot, code }) = self.table.take_over(wish, self.now_ms) else {
            return;
        };
        tracing::info!(step = 9, %session, taken_over_by = %wish.session, "A client has come back");
        self.records.ended(session, DISCONNECTED, None);
        self.answer_order(session, Err(code.into()));
        if let Some(host) = &slot.host {
            self.cancel_at_agent(host, session, code);
        }
        if let Some(gateway) = &slot.gateway {
            self.cancel_at_gateway(gateway, session, code.into());
        }
    }
}
