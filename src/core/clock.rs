//! The two kinds of time that decisions are given.

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch: what tickets, tokens and logs carry
/// between machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This time plus `ms` milliseconds, saturating.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time, zero when `earlier` is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// For people and XML: `2027-01-15T08:00:00Z`, to the second.
    #[must_use]
    pub fn utc(self) -> String {
        const LAST: &str = "9999-12-31T23:59:59Z";
        der::DateTime::from_unix_duration(std::time::Duration::from_secs(self.0 / 1_000))
            .map_or_else(|_| LAST.to_owned(), |time| time.to_string())
    }

    /// The wall clock. Only code that does I/O calls this; what decides is
    /// handed the result.
    #[must_use]
    pub fn now() -> Self {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(UnixMillis(1_800_000_000_999).utc(), "2027-01-15T08:00:00Z");
        assert_eq!(UnixMillis(0).utc(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixMillis(u64::MAX).utc(), "9999-12-31T23:59:59Z");
    }
}
