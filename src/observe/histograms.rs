//! HDR histograms of a gateway: what is measured, and the sets of histograms
//! that its threads write. A set belongs to one thread, which records into it
//! without a lock, and exchanges it for an empty one when somebody wants to
//! read.
//!
//! The recorder of `hdrhistogram::sync` is not used: its reader waits for every
//! writer to record once more, which a thread without work never does.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::{AdditionError, Histogram};
use serde::{Deserialize, Serialize};

/// Longest time told apart, microseconds: one minute.
const LONGEST_US: u64 = 60_000_000;
/// Significant digits: a value is known within 0.1 %.
const DIGITS: u8 = 3;

macro_rules! measures {
    ($($variant:ident $name:literal $step:literal $doc:literal;)+) => {
        /// Everything that a gateway measures, in microseconds. The names are
        /// those of `ringway ctl histograms`, of the tags in `.hlog` files and
        /// of the table in `README.md` ("Histograms"); a test compares.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Measure {
            $(#[doc = $doc] $variant,)+
        }

        impl Measure {
            /// All of them with name, steps and meaning, in the order of the
            /// steps.
            pub const ALL: &'static [(Self, &'static str, &'static str, &'static str)] =
                &[$((Self::$variant, $name, $step, $doc),)+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

measures! {
    Handshake "handshake" "7, 10" "From an accepted connection to the end of its TLS handshake, whoever connects.";
    Answer "answer" "7" "From a client's request for a place to the end of the answer that names one.";
    Place "place" "7" "From asking the broker for a place to its answer, yes or no.";
    ProbeRtt "probe_rtt" "7" "Round trip to another gateway over TLS: the shortest of three in a row.";
    Admit "admit" "8" "From a client leg's request to its ticket verified and the broker asked.";
    Orchestrate "orchestrate" "9" "From asking the broker for the session host to its answer, yes or no.";
    HostLeg "host_leg" "10" "From the accepted connection of a session host to its leg admitted: TLS, request, ticket.";
    Pairing "pairing" "8 to 10" "How long a client leg waited for its session host that came.";
    Join "join" "11" "From the host leg admitted to the session handed to its relay worker.";
    RelayUp "relay_up" "11, 12" "Added by the relay, client to host: from bytes received to the send that carried them done.";
    RelayDown "relay_down" "11, 12" "The same, host to client.";
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one thread measures.
pub trait HistogramSet: Default {
    /// Forgets all values and keeps the memory.
    fn clear(&mut self);
    fn each(&self) -> impl Iterator<Item = (Measure, &Histogram<u64>)>;
}

macro_rules! histogram_set {
    ($(#[$about:meta])* $set:ident { $($field:ident: $measure:ident,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug)]
        pub struct $set {
            $(pub $field: Histogram<u64>,)+
        }

        impl $set {
            #[must_use]
            pub fn new() -> Self {
                Self { $($field: latency(),)+ }
            }
        }

        impl Default for $set {
            fn default() -> Self {
                Self::new()
            }
        }

        impl HistogramSet for $set {
            fn clear(&mut self) {
                $(self.$field.clear();)+
            }

            fn each(&self) -> impl Iterator<Item = (Measure, &Histogram<u64>)> {
                [$((Measure::$measure, &self.$field),)+].into_iter()
            }
        }
    };
}

histogram_set! {
    /// Of one relay worker.
    RelayHistograms { up_us: RelayUp, down_us: RelayDown, }
}

histogram_set! {
    /// Of one lobby thread.
    LobbyHistograms {
        handshake_us: Handshake,
        answer_us: Answer,
        admit_us: Admit,
        host_leg_us: HostLeg,
        pairing_us: Pairing,
        join_us: Join,
    }
}

histogram_set! {
    /// Of the control thread.
    ControlHistograms { place_us: Place, probe_rtt_us: ProbeRtt, orchestrate_us: Orchestrate, }
}

/// An empty latency histogram: 1 µs to a minute, three significant digits.
#[must_use]
#[expect(clippy::expect_used, reason = "the bounds are constants and valid")]
pub fn latency() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("valid bounds")
}

/// Records how long something took.
pub fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

/// Histograms of many threads, gateways or logs, by what they measure.
#[derive(Clone, Debug, Default)]
pub struct Merged(BTreeMap<String, Histogram<u64>>);

impl Merged {
    /// Everything that a gateway measures, without values.
    #[must_use]
    pub fn with_all_of_ours() -> Self {
        let empty = Measure::ALL.iter().map(|(_, name, ..)| ((*name).to_owned(), growing()));
        Self(empty.collect())
    }

    /// Adds the values of one more. Bounds may differ: other programs write
    /// logs too.
    ///
    /// # Errors
    /// When a count would overflow.
    pub fn add(&mut self, measure: &str, values: &Histogram<u64>) -> Result<(), AdditionError> {
        if let Some(there) = self.0.get_mut(measure) {
            return there.add(values);
        }
        let mut first = growing();
        first.add(values)?;
        self.0.insert(measure.to_owned(), first);
        Ok(())
    }

    #[must_use]
    pub fn get(&self, measure: &str) -> Option<&Histogram<u64>> {
        self.0.get(measure)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ours in the order of the steps, then whatever else a log has.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Histogram<u64>)> {
        let ours = Measure::ALL.iter().filter_map(|(_, name, ..)| Some((*name, self.get(name)?)));
        let others = self.0.iter().map(|(name, values)| (name.as_str(), values));
        let is_ours = |name: &str| Measure::ALL.iter().any(|(_, ours, ..)| *ours == name);
        ours.chain(others.filter(move |(name, _)| !is_ours(name)))
    }
}

impl IntoIterator for Merged {
    type Item = (String, Histogram<u64>);
    type IntoIter = std::collections::btree_map::IntoIter<String, Histogram<u64>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// An empty histogram that takes room when it needs it.
#[expect(clippy::expect_used, reason = "the number of digits is a constant and valid")]
fn growing() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("valid digits")
}

/// Percentiles as they are printed and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Percentiles {
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_merge() {
        let mut all = Merged::with_all_of_ours();
        let mut one = RelayHistograms::new();
        for us in 1..=100 {
            one.up_us.saturating_record(us);
        }
        for (measure, values) in one.each().chain(one.each()) {
            all.add(measure.as_str(), values).unwrap();
        }
        let percentiles = Percentiles::of(all.get("relay_up").unwrap());
        assert_eq!((percentiles.count, percentiles.p50, percentiles.max), (200, 50, 100));
        assert_eq!(Percentiles::of(all.get("relay_down").unwrap()).count, 0);
    }

    #[test]
    fn every_measure_is_written_by_one_kind_of_thread() {
        let (relay, lobby, control) =
            (RelayHistograms::new(), LobbyHistograms::new(), ControlHistograms::new());
        let mut written: Vec<_> = relay.each().map(|(measure, _)| measure).collect();
        written.extend(lobby.each().map(|(measure, _)| measure));
        written.extend(control.each().map(|(measure, _)| measure));
        written.sort();
        let all: Vec<_> = Measure::ALL.iter().map(|(measure, ..)| *measure).collect();
        assert_eq!(written, all);
    }

    #[test]
    fn what_others_measured_merges_whatever_their_bounds() {
        let mut theirs = Histogram::<u64>::new_with_bounds(1, 1_000_000_000_000, 2).unwrap();
        theirs.record(900_000_000_000).unwrap();
        let mut ours = latency();
        ours.saturating_record(7);
        let mut merged = Merged::default();
        for (name, values) in [("other", &theirs), ("relay_up", &ours), ("relay_up", &theirs)] {
            merged.add(name, values).unwrap();
        }
        let counts: Vec<_> = merged.iter().map(|(name, values)| (name, values.len())).collect();
        assert_eq!(counts, [("relay_up", 2), ("other", 1)]);
        let longest = merged.get("relay_up").unwrap().max();
        assert!((890_000_000_000..=910_000_000_000).contains(&longest), "{longest}");
    }
}
