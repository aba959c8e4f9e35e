//! The twelve steps as they happen, for whoever shows them (the demo, tests).

use std::fmt;
use std::sync::Arc;

use crate::core::ids::SessionId;

/// One step, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepEvent {
    /// 1 to 12, see the crate's documentation.
    pub step: u8,
    pub session: Option<SessionId>,
    /// Microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// Which role saw it: `broker`, `gateway`, `agent`, `connect`.
    pub who: &'static str,
    pub note: String,
}

/// Who wants to know. Called from the middle of the work: it must not block.
pub type Timeline = Arc<dyn Fn(StepEvent) + Send + Sync>;

/// A role's way to tell, whether or not anybody listens.
#[derive(Clone)]
pub struct Teller {
    who: &'static str,
    timeline: Option<Timeline>,
}

impl Teller {
    #[must_use]
    pub fn new(who: &'static str, timeline: Option<Timeline>) -> Self {
        Self { who, timeline }
    }

    pub fn tell(&self, step: u8, session: Option<SessionId>, note: impl Into<String>) {
        if let Some(timeline) = &self.timeline {
            let since_epoch = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            timeline(StepEvent {
                step,
                session,
                at_unix_us: u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX),
                who: self.who,
                note: note.into(),
            });
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").field("who", &self.who).finish_non_exhaustive()
    }
}
