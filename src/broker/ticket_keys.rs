//! The keys that sign tickets: kept in the state directory, replaced by the
//! clock or by order ([`crate::core::key_ring`] says when).
//!
//! What changes is on the disk before anybody hears of it, so that a broker
//! that dies in between comes back with the keys that gateways know.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::audit::AuditLog;
use super::orchestrate::{Command, Handle};
use crate::config::broker::BrokerConfig;
use crate::config::state_dir::StateDir;
use crate::core::audit::Action;
use crate::core::clock::UnixMillis;
use crate::core::key_ring::{KeyChange, KeyRing, KeyRules, StoredKeys};
use crate::core::secret::Secret;
use crate::core::tickets::{PublishedKey, TicketSigner};
use crate::wire::admin::KeysView;

const KEYS_FILE: &str = "ticket-keys.json";
/// Of versions that had one key.
const ONE_KEY_FILE: &str = "tickets.key";
const DAY_MS: u64 = 86_400_000;
/// After a disk that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A change of the machine's clock is noticed this late.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Orders that may wait.
const ORDERS_MAX: usize = 4;

/// What the owner task signs with and tells gateways.
#[derive(Clone, Debug)]
pub struct Keys {
    pub signer: Arc<TicketSigner>,
    /// One or two, the signer's first.
    pub published: Vec<PublishedKey>,
}

/// A key and the document that it is made of.
#[derive(Clone, Debug)]
struct Key {
    signer: Arc<TicketSigner>,
    /// PKCS#8 in base64.
    document: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    signing: StoredKey,
    #[serde(default)]
    next: Option<StoredKey>,
    #[serde(default)]
    retiring: Option<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    pkcs8: Secret,
    /// Of the signing key: since when. Of the next: from when. Of the retiring
    /// one: until when it is published.
    at: UnixMillis,
}

/// The keys of a state directory, and what changes them.
#[derive(Debug)]
pub struct TicketKeys {
    state: StateDir,
    ring: KeyRing<Key>,
}

/// An order to rotate, from an operator, who is told why not.
pub type Order = oneshot::Sender<Result<KeysView, String>>;

impl TicketKeys {
    /// Reads the keys, makes the first one when there is none.
    ///
    /// # Errors
    /// When the file is damaged, or cannot be read or written.
    pub fn open(config: &BrokerConfig, state: &StateDir, now: UnixMillis) -> anyhow::Result<Self> {
        let rules = rules(config);
        let ring = match state.read(KEYS_FILE)? {
            Some(bytes) => KeyRing::restore(rules, parse(&bytes)?),
            None => {
                let key = match state.read(ONE_KEY_FILE)? {
                    Some(document) => Key::from_pkcs8(&document).with_context(|| {
                        format!(
                            "{ONE_KEY_FILE} in the state directory is damaged; remove it to get a new one"
                        )
                    })?,
                    None => Key::generate()?,
                };
                KeyRing::new(rules, key, now)
            }
        };
        let keys = Self { state: state.clone(), ring };
        keys.store()?;
        Ok(keys)
    }

    #[must_use]
    pub fn current(&self) -> Keys {
        let published = self.ring.published();
        Keys {
            signer: Arc::clone(&self.ring.signing().signer),
            published: published.into_iter().map(|key| key.signer.published()).collect(),
        }
    }

    /// Does what is due. What it did is on the disk when it returns.
    ///
    /// # Errors
    /// When there is no randomness or the disk fails; then nothing has changed.
    fn advance(&mut self, now: UnixMillis) -> anyhow::Result<Vec<(Action, String)>> {
        self.whole_or_not(|keys| {
            let mut did = Vec::new();
            loop {
                let before = keys.ids();
                let Some(change) = keys.ring.advance(now) else { return Ok(did) };
                let (action, [signing, other]) = match change {
                    KeyChange::NextIsDue => {
                        // There is room, or it would not be due.
                        let _signs_from = keys.ring.announce(Key::generate()?, now);
                        (Action::KeyAnnounced, keys.ids())
                    }
                    KeyChange::Signs => (Action::KeySigns, keys.ids()),
                    KeyChange::Retired => (Action::KeyRetired, before),
                };
                did.push((action, if action == Action::KeySigns { signing } else { other }));
            }
        })
    }

    /// Publishes the next key now and returns its name. The inner error says
    /// from when on that is possible.
    fn rotate(&mut self, now: UnixMillis) -> anyhow::Result<Result<String, UnixMillis>> {
        self.whole_or_not(|keys| {
            let announced = keys.ring.announce(Key::generate()?, now);
            let [_signing, next] = keys.ids();
            Ok(announced.map(|_signs_from| next))
        })
    }

    /// Changes the ring and stores it, or leaves it as it was.
    fn whole_or_not<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let before = self.ring.clone();
        let ids = self.ids();
        let changed = change(self).and_then(|done| {
            if self.ids() != ids {
                self.store()?;
            }
            Ok(done)
        });
        if changed.is_err() {
            self.ring = before;
        }
        changed
    }

    /// The names of the published keys, the signing one's first.
    fn ids(&self) -> [String; 2] {
        let mut ids = self.current().published.into_iter().map(|key| key.key_id);
        [(); 2].map(|()| ids.next().unwrap_or_default())
    }

    fn view(&self) -> KeysView {
        let stored = self.ring.stored();
        let id = |key: Key| key.signer.published().key_id;
        KeysView {
            signing: id(stored.signing.0),
            since: stored.signing.1,
            next: stored.next.as_ref().map(|(key, _)| id(key.clone())),
            next_signs_from: stored.next.map(|(_, at)| at),
            retiring: stored.retiring.as_ref().map(|(key, _)| id(key.clone())),
            retired_at: stored.retiring.map(|(_, at)| at),
        }
    }

    fn store(&self) -> anyhow::Result<()> {
        let stored = self.ring.stored();
        let key = |(key, at): (Key, UnixMillis)| StoredKey { pkcs8: key.document, at };
        let stored = Stored {
            signing: key(stored.signing),
            next: stored.next.map(key),
            retiring: stored.retiring.map(key),
        };
        let text = Zeroizing::new(serde_json::to_vec(&stored)?);
        self.state.write(KEYS_FILE, &text)?;
        // Its key is in the other file now, and has its own end there.
        let _there_is_none = std::fs::remove_file(self.state.file(ONE_KEY_FILE));
        Ok(())
    }
}

impl Key {
    fn generate() -> anyhow::Result<Self> {
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
        Self::from_pkcs8(document.as_ref())
    }

    fn from_pkcs8(document: &[u8]) -> anyhow::Result<Self> {
        Ok(Self {
            signer: Arc::new(TicketSigner::from_pkcs8(document)?),
            document: STANDARD.encode(document).into(),
        })
    }
}

fn rules(config: &BrokerConfig) -> KeyRules {
    KeyRules {
        signs_ms: u64::from(config.ticket_key_days) * DAY_MS,
        // A gateway that is connected has heard of the key by then: else its
        // channel, on which heartbeats queue behind, would have been given up.
        lead_ms: config.limits.heartbeat_timeout_ms.saturating_mul(2),
    }
}

fn parse(bytes: &[u8]) -> anyhow::Result<StoredKeys<Key>> {
    let damaged =
        || format!("{KEYS_FILE} in the state directory is damaged; remove it to get a new key");
    let stored: Stored = serde_json::from_slice(bytes).with_context(damaged)?;
    let key = |stored: StoredKey| -> anyhow::Result<(Key, UnixMillis)> {
        let document = Zeroizing::new(STANDARD.decode(stored.pkcs8.expose())?);
        Ok((Key::from_pkcs8(&document)?, stored.at))
    };
    Ok(StoredKeys {
        signing: key(stored.signing).with_context(damaged)?,
        next: stored.next.map(key).transpose().with_context(damaged)?,
        retiring: stored.retiring.map(key).transpose().with_context(damaged)?,
    })
}

/// Starts the task that replaces keys when it is time, or when it is told to.
/// It ends with the broker.
#[must_use]
pub fn keep(keys: TicketKeys, core: Handle, audit: AuditLog) -> mpsc::Sender<Order> {
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    tokio::spawn(run(keys, core, audit, ordered));
    orders
}

async fn run(
    mut keys: TicketKeys,
    core: Handle,
    audit: AuditLog,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut at_least = Duration::ZERO;
    loop {
        let now = UnixMillis::now();
        let until_change = keys.ring.next_change().map_or(u64::MAX, |at| at.since_ms(now));
        let pause = Duration::from_millis(until_change).clamp(at_least, LONGEST_SLEEP);
        let order = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => Some(order),
                None => return,
            },
            () = sleep(pause) => None,
        };
        // Writes to the disk, which may take a moment: not on this thread.
        let worked = tokio::task::spawn_blocking(move || {
            let now = UnixMillis::now();
            let mut did = keys.advance(now);
            let answer = order.map(|order| {
                let rotated = keys.rotate(now);
                if let (Ok(Ok(id)), Ok(did)) = (&rotated, &mut did) {
                    did.push((Action::KeyAnnounced, id.clone()));
                }
                (order, rotated, keys.view())
            });
            (keys, did, answer)
        });
        let Ok((back, did, answer)) = worked.await else {
            tracing::error!("Ticket keys are replaced no more: their task failed");
            return;
        };
        keys = back;
        at_least = if did.is_err() { RETRY_INTERVAL } else { Duration::ZERO };
        match did {
            Ok(did) if did.is_empty() => {}
            Ok(did) => {
                let sent = core.send(Command::Keys(keys.current())).await;
                for (action, key) in did {
                    tracing::info!(%key, what = action.as_str(), "Changed the ticket keys");
                    audit.record(action, &key, &json!({}));
                }
                if !sent {
                    return;
                }
            }
            Err(error) => tracing::error!(%error, "Cannot replace the ticket key; trying again"),
        }
        if let Some((order, rotated, view)) = answer {
            let answer = match rotated {
                Ok(Ok(_)) => Ok(view),
                Ok(Err(room_at)) => {
                    let wait_s = room_at.since_ms(UnixMillis::now()).div_ceil(1_000);
                    Err(format!("a rotation is under way; try again in {wait_s} s"))
                }
                Err(error) => Err(format!("{error:#}")),
            };
            let _nobody_waits = order.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TemporaryDir, config};
    use super::*;
    use crate::core::key_ring::RETIRES_AFTER_MS;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn open(dir: &TemporaryDir, now: UnixMillis) -> TicketKeys {
        let config = config(dir.path(), "ticket_key_days = 2", "");
        TicketKeys::open(&config, &StateDir::open(dir.path()).unwrap(), now).unwrap()
    }

    fn actions(did: Vec<(Action, String)>) -> Vec<Action> {
        did.into_iter().map(|(action, _)| action).collect()
    }

    #[test]
    fn keys_are_replaced_by_the_clock_and_survive_a_restart_at_any_point() {
        let dir = TemporaryDir::new();
        let mut keys = open(&dir, START);
        let mut now = START;
        for expected in [Action::KeyAnnounced, Action::KeySigns, Action::KeyRetired] {
            let at = keys.ring.next_change().unwrap();
            assert!(keys.advance(UnixMillis(at.0 - 1)).unwrap().is_empty());
            now = at;
            assert_eq!(actions(keys.advance(now).unwrap()), [expected]);
            let again = open(&dir, now);
            assert_eq!(again.current().published, keys.current().published);
            assert_eq!(again.view(), keys.view());
            keys = again;
        }
        assert_eq!(now, START.plus_ms(2 * DAY_MS + 20_000 + RETIRES_AFTER_MS));
        assert_eq!(keys.current().published.len(), 1);
    }

    #[test]
    fn a_broker_that_was_off_catches_up() {
        let dir = TemporaryDir::new();
        let mut keys = open(&dir, START);
        assert!(keys.rotate(START).unwrap().is_ok());
        drop(keys);
        let mut keys = open(&dir, START.plus_ms(10 * DAY_MS));
        let did = actions(keys.advance(START.plus_ms(10 * DAY_MS)).unwrap());
        assert_eq!(did, [Action::KeySigns], "gateways that return learn of both");
        assert_eq!(keys.current().published.len(), 2);
    }

    #[test]
    fn the_one_key_of_an_older_version_goes_on() {
        let dir = TemporaryDir::new();
        let state = StateDir::open(dir.path()).unwrap();
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
        let document = document.unwrap();
        state.write(ONE_KEY_FILE, document.as_ref()).unwrap();
        let known = TicketSigner::from_pkcs8(document.as_ref()).unwrap().published();
        for _ in 0..2 {
            assert_eq!(open(&dir, START).current().published, std::slice::from_ref(&known));
            assert!(!state.file(ONE_KEY_FILE).exists());
        }
    }

    #[test]
    fn a_damaged_file_is_named_and_a_disk_that_fails_changes_nothing() {
        let dir = TemporaryDir::new();
        let mut keys = open(&dir, START);
        let before = keys.current().published;
        // Nothing can be made where the directory is missing.
        keys.state = StateDir::open(&dir.path().join("sub")).unwrap();
        std::fs::remove_dir(dir.path().join("sub")).unwrap();
        assert!(keys.rotate(START).is_err());
        assert!(keys.advance(START.plus_ms(2 * DAY_MS)).is_err());
        assert_eq!(keys.current().published, before);

        std::fs::write(dir.path().join(KEYS_FILE), "{}").unwrap();
        let config = config(dir.path(), "", "");
        let state = StateDir::open(dir.path()).unwrap();
        let error = TicketKeys::open(&config, &state, START).unwrap_err().to_string();
        assert!(error.contains(KEYS_FILE), "{error}");
    }
}
