//! Since when each resource is as it is. Clients fetch again what has changed
//! (`LastUpdated`, `ETag`), and nothing else, also after a restart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::config::state_dir::{StateDir, StateError};
use crate::core::clock::UnixMillis;
use crate::core::ids::ResourceId;

const FILE: &str = "feed.json";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    revision: String,
    changed_at: UnixMillis,
}

/// What was seen last of each resource, in memory and in the state directory.
#[derive(Debug)]
pub struct Revisions {
    state: StateDir,
    known: Mutex<BTreeMap<ResourceId, Known>>,
}

impl Revisions {
    /// # Errors
    /// When the file is there and cannot be read. One that is damaged is made
    /// anew: clients fetch once more.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        let known = match state.read(FILE)? {
            None => BTreeMap::new(),
            Some(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, "{FILE} is damaged, clients will fetch everything again");
                BTreeMap::new()
            }),
        };
        Ok(Self { state: state.clone(), known: Mutex::new(known) })
    }

    /// Takes note of a resource as it is now and returns since when.
    pub async fn changed_at(&self, id: &ResourceId, revision: &str, now: UnixMillis) -> UnixMillis {
        let mut known = self.known.lock().await;
        if let Some(known) = known.get(id).filter(|known| known.revision == revision) {
            return known.changed_at;
        }
        known.insert(id.clone(), Known { revision: revision.to_owned(), changed_at: now });
        let (state, text) = (self.state.clone(), serde_json::to_vec(&*known));
        // Still locked: two at once would overtake each other.
        let written = tokio::task::spawn_blocking(move || match text {
            Ok(text) => state.write(FILE, &text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(%error, "Cannot keep since when a resource is as it is");
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_dated_once_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let id = "desktop".parse().unwrap();
        let revisions = Revisions::open(&state).unwrap();
        assert_eq!(revisions.changed_at(&id, "a", UnixMillis(1)).await, UnixMillis(1));
        assert_eq!(revisions.changed_at(&id, "a", UnixMillis(2)).await, UnixMillis(1));
        let reopened = Revisions::open(&state).unwrap();
        assert_eq!(reopened.changed_at(&id, "a", UnixMillis(3)).await, UnixMillis(1));
        assert_eq!(reopened.changed_at(&id, "b", UnixMillis(4)).await, UnixMillis(4));
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let anew = Revisions::open(&state).unwrap();
        assert_eq!(anew.changed_at(&id, "b", UnixMillis(5)).await, UnixMillis(5));
    }
}
