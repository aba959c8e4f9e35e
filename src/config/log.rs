//! The `[log]` table: how much is logged. For every role, and not required.

use serde::Deserialize;

use super::Findings;
use crate::observe::log;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or tracing's syntax, such as
    /// `info,ringway::broker=debug`. `RINGWAY_LOG` in the environment goes
    /// before it.
    pub level: Option<String>,
}

impl LogConfig {
    pub(super) fn check(&self, found: &mut Findings) {
        let level = self.level.as_deref();
        if let Some(Err(error)) = level.map(log::check_level) {
            let remedy = "write error, warn, info, debug or trace, or such as \
                          \"info,ringway::broker=debug\"";
            found.add("log.level", error, remedy);
        }
    }
}
