//! What happened, on its way to the disk: one bounded queue, one writer.
//!
//! Whoever has something to record never waits. When the disk fails, the writer
//! keeps what it has and tries again; when the queue is full meanwhile, records
//! are lost rather than sessions stopped. How many, is the first record that is
//! written afterwards, and in `ringway ctl status`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::store::Store;
use crate::core::audit::repeats::Repeats;
use crate::core::audit::{Action, Entry, Head};
use crate::core::clock::UnixMillis;
use crate::wire::admin::AuditView;

/// Records that may wait: all that ending 10,000 sessions at once leaves,
/// several times.
const QUEUE_MAX: usize = 65_536;
/// Records of one transaction.
const BATCH_MAX: usize = 512;
/// How often counted repeats are looked at.
const REPEATS_INTERVAL: Duration = Duration::from_secs(5);
/// Between two attempts to write what the disk did not take.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Where to record. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<Message>,
    state: Arc<State>,
}

enum Message {
    Entry(Entry),
    /// Write what is there and end.
    Finish(oneshot::Sender<()>),
}

#[derive(Debug)]
struct State {
    /// Lost and not recorded as lost yet.
    lost: AtomicU64,
    lost_in_all: AtomicU64,
    problem: Mutex<Option<String>>,
    head: Mutex<Head>,
}

impl AuditLog {
    /// Starts the writer of a store whose chain ends at `head`.
    #[must_use]
    pub fn start(store: Store, head: Head) -> (Self, JoinHandle<()>) {
        let (queue, entries) = mpsc::channel(QUEUE_MAX);
        let state = Arc::new(State {
            lost: AtomicU64::new(0),
            lost_in_all: AtomicU64::new(0),
            problem: Mutex::default(),
            head: Mutex::new(head),
        });
        let writer = Writer {
            store,
            state: Arc::clone(&state),
            repeats: Repeats::default(),
            unwritten: Vec::new(),
        };
        (Self { queue, state }, tokio::spawn(writer.run(entries)))
    }

    /// A log that nobody writes down, for what is simulated without a disk.
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        let (queue, _nobody) = mpsc::channel(1);
        let head = Mutex::new(Head::EMPTY);
        let problem = Mutex::default();
        let (lost, lost_in_all) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { queue, state: Arc::new(State { lost, lost_in_all, problem, head }) }
    }

    /// Records something without waiting for the disk. `detail` is an object.
    pub fn record(&self, action: Action, subject: impl fmt::Display, detail: &Value) {
        let entry = Entry::new(UnixMillis::now(), action, subject, detail);
        if self.queue.try_send(Message::Entry(entry)).is_err() {
            self.state.lost_in_all.fetch_add(1, Relaxed);
            if self.state.lost.fetch_add(1, Relaxed) == 0 {
                tracing::error!("Audit records are being lost; see ringway ctl status");
            }
        }
    }

    /// How the trail is doing. `head` of the store, which others write too.
    #[must_use]
    pub fn view(&self, head: Option<Head>) -> AuditView {
        let problem = self.state.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let written = *self.state.head.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.queue.max_capacity().saturating_sub(self.queue.capacity());
        AuditView {
            head: head.unwrap_or(written).to_string(),
            waiting: waiting as u64,
            lost: self.state.lost_in_all.load(Relaxed),
            problem,
        }
    }

    /// Has everything written that was recorded before, and ends the writer,
    /// if the disk takes it within `patience`.
    pub async fn finish(&self, patience: Duration) {
        let (done, is_done) = oneshot::channel();
        let finish = async {
            if self.queue.send(Message::Finish(done)).await.is_ok() {
                let _writer_has_ended = is_done.await;
            }
        };
        if timeout(patience, finish).await.is_err() {
            tracing::error!("The last audit records were not written in time");
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("state", &self.state).finish_non_exhaustive()
    }
}

struct Writer {
    store: Store,
    state: Arc<State>,
    repeats: Repeats,
    unwritten: Vec<Entry>,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut look = interval(REPEATS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut arrived = Vec::with_capacity(BATCH_MAX);
        loop {
            let mut is_last = false;
            let mut done = None;
            tokio::select! {
                count = queue.recv_many(&mut arrived, BATCH_MAX) => is_last = count == 0,
                _ = look.tick() => {}
            }
            let now = UnixMillis::now();
            for message in arrived.drain(..) {
                match message {
                    Message::Entry(entry) => self.unwritten.extend(self.repeats.fold(entry, now)),
                    Message::Finish(sender) => done = Some(sender),
                }
            }
            is_last |= done.is_some();
            // At the end, whatever was counted.
            let due = if is_last { UnixMillis(u64::MAX) } else { now };
            let counted = self.repeats.due(due);
            self.unwritten.extend(counted.into_iter().map(|entry| Entry { at: now, ..entry }));
            self.write().await;
            if is_last {
                if let Some(done) = done {
                    let _nobody_waits = done.send(());
                }
                return;
            }
        }
    }

    /// Writes until it is written: in the meantime the queue fills.
    async fn write(&mut self) {
        loop {
            let lost = self.state.lost.swap(0, Relaxed);
            if lost > 0 {
                let detail = json!({ "records": lost });
                let now = UnixMillis::now();
                self.unwritten.push(Entry::new(now, Action::RecordsLost, "audit", &detail));
            }
            if self.unwritten.is_empty() {
                return;
            }
            match self.store.append_audit(self.unwritten.clone()).await {
                Ok(head) => {
                    self.unwritten.clear();
                    *self.state.head.lock().unwrap_or_else(PoisonError::into_inner) = head;
                    if self.set_problem(None).is_some() {
                        tracing::info!("Audit records are written again");
                    }
                    return;
                }
                Err(error) => {
                    if self.set_problem(Some(error.to_string())).is_none() {
                        tracing::error!(%error, "Audit records cannot be written; they wait");
                    }
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Returns what it was before.
    fn set_problem(&self, problem: Option<String>) -> Option<String> {
        let mut now = self.state.problem.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *now, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::TemporaryDir;
    use super::*;
    use crate::broker::store::verify_audit;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_is_recorded_is_written_and_repeats_are_counted() {
        let dir = TemporaryDir::new();
        let path = dir.path().join("db");
        let store = Store::open(&path).unwrap();
        let head = store.audit_head().await.unwrap();
        let (log, writer) = AuditLog::start(store.clone(), head);
        for _ in 0..3 {
            log.record(Action::SignIn, "ann", &json!({}));
        }
        log.record(Action::Placed, "s", &json!({ "user": "ann" }));
        log.finish(PATIENCE).await;
        writer.await.unwrap();
        let records = store.audit_after(1, UnixMillis(0), 10).await.unwrap();
        let told: Vec<_> = records.iter().map(|r| (r.action.as_str(), r.detail.as_str())).collect();
        assert_eq!(
            told,
            [("sign_in", "{}"), ("placed", r#"{"user":"ann"}"#), ("sign_in", r#"{"repeated":2}"#)]
        );
        assert_eq!(log.view(None).head, verify_audit(&path, vec![]).unwrap().to_string());
    }

    #[tokio::test]
    async fn a_disk_that_fails_loses_nothing_until_the_queue_is_full_and_then_says_so() {
        let dir = TemporaryDir::new();
        let path = dir.path().join("db");
        let store = Store::open(&path).unwrap();
        let head = store.audit_head().await.unwrap();
        let (log, writer) = AuditLog::start(store.clone(), head);
        // Whatever it is: nothing can be appended.
        let breaker = rusqlite::Connection::open(&path).unwrap();
        let refuse = "CREATE TRIGGER broken BEFORE INSERT ON audit
                      BEGIN SELECT RAISE(ABORT, 'disk'); END";
        breaker.execute_batch(refuse).unwrap();
        log.record(Action::Drained, "first", &json!({}));
        let noticed = async {
            while log.view(None).problem.is_none() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, noticed).await.unwrap();
        for number in 0..QUEUE_MAX + 7 {
            log.record(Action::Drained, number, &json!({}));
        }
        assert_eq!(log.view(None).lost, 7);
        breaker.execute_batch("DROP TRIGGER broken").unwrap();
        log.finish(PATIENCE).await;
        writer.await.unwrap();
        let view = log.view(None);
        assert_eq!((view.problem, view.lost, view.waiting), (None, 7, 0));
        let head = verify_audit(&path, vec![]).unwrap();
        assert_eq!(head.number, 1 + 1 + 1 + QUEUE_MAX as u64, "began, first, lost, the queue");
        let lost = store.audit_after(1, UnixMillis(0), 2).await.unwrap().remove(1);
        assert_eq!(
            (lost.action.as_str(), lost.detail.as_str()),
            ("records_lost", r#"{"records":7}"#)
        );
    }
}
