//! What is kept of pools: whose a host is, and which labels are drained.

use rusqlite::params;
use serde_json::json;

use super::{Names, Store, StoreError, audit, parse, to_sql};
use crate::core::audit::{Action, Entry};
use crate::core::clock::UnixMillis;
use crate::core::ids::{HostId, Label};
use crate::core::placement::AssignmentKey;

const DRAINED_LABELS: Names = Names { table: "drained_labels", column: "label" };

impl Store {
    /// Makes this host the user's, or takes it away from them.
    ///
    /// # Errors
    /// When the database fails, the user has another host of the pool, or the
    /// host another user.
    pub async fn set_assigned(
        &self,
        key: AssignmentKey,
        host: HostId,
        assigned: bool,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.call(move |db| {
            let AssignmentKey { pool, user } = key;
            if assigned {
                db.execute(
                    "INSERT INTO assignments (pool, user, host, since) VALUES (?1, ?2, ?3, ?4)",
                    params![pool.as_str(), user, host.as_str(), to_sql(now)],
                )?;
            } else {
                db.execute(
                    "DELETE FROM assignments WHERE pool = ?1 AND user = ?2 AND host = ?3",
                    params![pool.as_str(), user, host.as_str()],
                )?;
            }
            let action = if assigned { Action::Assigned } else { Action::Unassigned };
            let detail = json!({ "pool": pool, "user": user });
            audit::append(db, [Entry::new(now, action, &host, &detail)])?;
            Ok(())
        })
        .await
    }

    /// # Errors
    /// When the database fails.
    pub async fn assignments(&self) -> Result<Vec<(AssignmentKey, HostId)>, StoreError> {
        self.call(|db| {
            let mut query =
                db.prepare("SELECT pool, user, host FROM assignments ORDER BY pool, user")?;
            let mut rows = query.query([])?;
            let mut assignments = Vec::new();
            while let Some(row) = rows.next()? {
                let key = AssignmentKey { pool: parse(row.get(0)?)?, user: row.get(1)? };
                assignments.push((key, parse(row.get(2)?)?));
            }
            Ok(assignments)
        })
        .await
    }

    /// # Errors
    /// When the database fails.
    pub async fn set_label_drained(
        &self,
        label: Label,
        drained: bool,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.call(move |db| {
            DRAINED_LABELS.set(db, label.as_str(), drained, now)?;
            let action = if drained { Action::LabelDrained } else { Action::LabelUndrained };
            audit::append(db, [Entry::new(now, action, &label, &json!({}))])?;
            Ok(())
        })
        .await
    }

    /// Labels whose hosts take no new users.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drained_labels(&self) -> Result<Vec<Label>, StoreError> {
        self.call(|db| DRAINED_LABELS.read(db)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::testing::TemporaryDir;

    #[tokio::test]
    async fn a_user_has_one_host_of_a_pool_and_a_host_one_user() {
        let dir = TemporaryDir::new();
        let file = dir.path().join("db");
        let store = Store::open(&file).unwrap();
        let set = async |pool: &str, user: &str, host: &str, assigned| {
            let key = AssignmentKey { pool: pool.parse().unwrap(), user: user.into() };
            let now = UnixMillis::now();
            store.set_assigned(key, host.parse().unwrap(), assigned, now).await.is_ok()
        };
        assert!(set("own", "ann", "host-1", true).await);
        assert!(!set("own", "ann", "host-2", true).await, "a second host");
        assert!(!set("own", "bob", "host-1", true).await, "a second user");
        assert!(set("other", "ann", "host-1", true).await, "of another pool");
        assert!(set("other", "ann", "host-1", false).await);
        assert!(set("other", "bob", "host-1", true).await, "given back");
        let text = |(key, host): &(AssignmentKey, HostId)| format!("{} {host}", key.user);
        let kept = Store::open(&file).unwrap().assignments().await.unwrap();
        assert_eq!(kept.iter().map(text).collect::<Vec<_>>(), ["bob host-1", "ann host-1"]);
    }

    #[tokio::test]
    async fn drained_labels_are_kept() {
        let dir = TemporaryDir::new();
        let file = dir.path().join("db");
        let store = Store::open(&file).unwrap();
        let now = UnixMillis::now();
        for (label, drained) in [("rack-1", true), ("rack-1", true), ("b", true), ("b", false)] {
            store.set_label_drained(label.parse().unwrap(), drained, now).await.unwrap();
        }
        let kept = Store::open(&file).unwrap().drained_labels().await.unwrap();
        assert_eq!(kept, ["rack-1".parse().unwrap()]);
    }
}
