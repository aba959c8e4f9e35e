//! The twelve steps as they happen, for whoever wants to watch (the demo, the
//! tests). Production code passes `None`.

use std::sync::Arc;

use crate::core::ids::SessionId;

/// One step began or was done.
#[derive(Clone, Debug)]
pub struct StepEvent {
    /// 1 to 12.
    pub step: u8,
    /// Absent before there is a session.
    pub session: Option<SessionId>,
    /// Microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// Which role saw it.
    pub who: &'static str,
    pub note: String,
}

/// Where step events go. Called inline: it must not block.
pub type Timeline = Arc<dyn Fn(StepEvent) + Send + Sync>;

/// Tells `timeline`, if there is one, that `step` happened now.
pub fn mark(
    timeline: Option<&Timeline>,
    step: u8,
    session: Option<SessionId>,
    who: &'static str,
    note: impl Into<String>,
) {
    if let Some(timeline) = timeline {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let at_unix_us = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        timeline(StepEvent { step, session, at_unix_us, who, note: note.into() });
    }
}
