//! Records that say the same again: counted for a while instead of kept, so
//! that whoever asks without pause does not fill the disk.

use std::collections::{HashMap, VecDeque};

use super::{Action, Entry};
use crate::core::clock::UnixMillis;

/// Different records that are counted at once; beyond it the oldest is
/// forgotten, which at worst keeps a record more.
const SEEN_MAX: usize = 10_000;

type Key = (Action, String, String);

/// What was kept a moment ago.
#[derive(Debug, Default)]
pub struct Repeats {
    seen: HashMap<Key, Seen>,
    in_order: VecDeque<(UnixMillis, Key)>,
}

#[derive(Debug)]
struct Seen {
    until: UnixMillis,
    more: u64,
}

impl Repeats {
    /// The entry when it is to be kept; nothing when it was counted.
    pub fn fold(&mut self, entry: Entry, now: UnixMillis) -> Option<Entry> {
        let Some(window_ms) = entry.action.counted_for_ms() else { return Some(entry) };
        let key = (entry.action, entry.subject.clone(), entry.detail.clone());
        if let Some(seen) = self.seen.get_mut(&key).filter(|seen| now < seen.until) {
            seen.more = seen.more.saturating_add(1);
            return None;
        }
        let until = now.plus_ms(window_ms);
        self.seen.insert(key.clone(), Seen { until, more: 0 });
        self.in_order.push_back((until, key));
        Some(entry)
    }

    /// What was counted and is due: one entry each that says how often. Call
    /// it now and then.
    pub fn due(&mut self, now: UnixMillis) -> Vec<Entry> {
        let mut due = Vec::new();
        // Windows differ in length: one that is over may wait for a longer one
        // before it, but not for ever.
        let over = |until: UnixMillis| until <= now;
        let mut rest = VecDeque::with_capacity(self.in_order.len());
        let mut excess = self.in_order.len().saturating_sub(SEEN_MAX);
        for (until, key) in std::mem::take(&mut self.in_order) {
            if !over(until) && excess == 0 {
                rest.push_back((until, key));
                continue;
            }
            excess = excess.saturating_sub(1);
            // A newer window of the same key stays.
            if self.seen.get(&key).is_some_and(|seen| seen.until == until)
                && let Some(seen) = self.seen.remove(&key)
                && seen.more > 0
            {
                let (action, subject, detail) = key;
                due.push(Entry { at: now, action, subject, detail: counted(&detail, seen.more) });
            }
        }
        self.in_order = rest;
        due
    }
}

/// The detail with a member more.
fn counted(detail: &str, repeated: u64) -> String {
    match serde_json::from_str(detail) {
        Ok(serde_json::Value::Object(mut members)) => {
            members.insert("repeated".into(), repeated.into());
            serde_json::Value::Object(members).to_string()
        }
        _ => format!("{{\"repeated\":{repeated}}}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn refused(subject: &str) -> Entry {
        Entry::new(NOW, Action::SignInRefused, subject, &json!({"code": "token_expired"}))
    }

    #[test]
    fn the_same_again_is_counted_and_told_once_its_window_is_over() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.fold(refused("ann"), NOW), Some(refused("ann")));
        for ms in [0, 1, 59_999] {
            assert_eq!(repeats.fold(refused("ann"), NOW.plus_ms(ms)), None);
        }
        assert_eq!(repeats.fold(refused("bob"), NOW), Some(refused("bob")), "somebody else");
        assert_eq!(repeats.due(NOW.plus_ms(59_999)), []);
        let due = repeats.due(NOW.plus_ms(60_000));
        assert_eq!(due.len(), 1, "bob came once: {due:?}");
        assert_eq!(due[0].detail, r#"{"code":"token_expired","repeated":3}"#);
        assert_eq!(repeats.fold(refused("ann"), NOW.plus_ms(60_000)), Some(refused("ann")));
    }

    #[test]
    fn what_is_not_counted_is_always_kept() {
        let mut repeats = Repeats::default();
        let closed = Entry::new(NOW, Action::Closed, "a", &json!({}));
        for _ in 0..3 {
            assert_eq!(repeats.fold(closed.clone(), NOW), Some(closed.clone()));
        }
        assert_eq!(repeats.due(NOW.plus_ms(u64::MAX)), []);
    }

    #[test]
    fn any_number_of_strangers_needs_a_bounded_memory() {
        let mut repeats = Repeats::default();
        for number in 0..SEEN_MAX + 500 {
            assert!(repeats.fold(refused(&number.to_string()), NOW).is_some());
        }
        repeats.due(NOW);
        assert_eq!((repeats.seen.len(), repeats.in_order.len()), (SEEN_MAX, SEEN_MAX));
    }
}
