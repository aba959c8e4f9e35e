//! The audit trail and the revoked sessions in the database.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};
use serde_json::json;

use super::{BUSY_TIMEOUT_MS, Store, StoreError, from_sql, to_sql};
use crate::core::audit::{Action, Broken, Entry, Hash, Head, Record, Verifier};
use crate::core::clock::UnixMillis;
use crate::core::ids::{HostId, SessionId};

/// How far back sessions that may still run are looked for.
const LOOKED_BACK_RECORDS_MAX: i64 = 1_000_000;

/// What the trail knows of a session that may still run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedBefore {
    pub session: SessionId,
    pub user: String,
    pub resource: Option<String>,
    pub host: Option<HostId>,
}

/// Why a trail cannot be called whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read it as a broker's database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error("it has no audit chain: it is from an older version; start the broker once")]
    NoChain,
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl Store {
    /// Fastens entries to the chain, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn append_audit(&self, entries: Vec<Entry>) -> Result<Head, StoreError> {
        self.call(move |db| append(db, entries)).await
    }

    /// # Errors
    /// When the database fails.
    pub async fn audit_head(&self) -> Result<Head, StoreError> {
        self.call(|db| Ok(read_head(db)?)).await
    }

    /// Records behind number `after` and not older than `since`, the first
    /// `limit` of them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit_after(
        &self,
        after: u64,
        since: UnixMillis,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        self.call(move |db| {
            let mut query = db.prepare_cached(&format!(
                "{SELECT_RECORDS} WHERE number > ?1 AND at >= ?2 ORDER BY number LIMIT ?3"
            ))?;
            let after = i64::try_from(after).unwrap_or(i64::MAX);
            let rows = query.query_map(params![after, to_sql(since), limit], read_record)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Users and hosts of sessions that were placed and not closed since, as far as the
    /// trail tells: the broker that placed them is not the one that runs now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn placed_before(
        &self,
        since: UnixMillis,
        at_most: usize,
    ) -> Result<Vec<PlacedBefore>, StoreError> {
        self.call(move |db| {
            let mut query = db.prepare(
                "SELECT at, action, subject, detail FROM audit ORDER BY number DESC LIMIT ?1",
            )?;
            let mut rows = query.query([LOOKED_BACK_RECORDS_MAX])?;
            let (mut closed, mut open) = (HashSet::new(), HashMap::new());
            while let Some(row) = rows.next()? {
                if from_sql(row.get(0)?) < since || open.len() >= at_most {
                    break;
                }
                let (action, subject): (String, String) = (row.get(1)?, row.get(2)?);
                let Ok(session) = subject.parse::<SessionId>() else { continue };
                if action == Action::Closed.as_str() {
                    closed.insert(session);
                } else if action == Action::Placed.as_str()
                    && !closed.contains(&session)
                    && let Some(placed) = parse_placed(session, &row.get::<_, String>(3)?)
                {
                    open.insert(session, placed);
                }
            }
            Ok(open.into_values().collect())
        })
        .await
    }

    /// Keeps sessions from coming back until then, also after a restart.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_sessions(
        &self,
        sessions: Vec<SessionId>,
        until: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.call(move |db| {
            db.execute("DELETE FROM revoked_sessions WHERE until <= ?1", [to_sql(now)])?;
            let mut insert = db.prepare_cached(
                "INSERT INTO revoked_sessions (session, until) VALUES (?1, ?2)
                 ON CONFLICT (session) DO UPDATE SET until = excluded.until",
            )?;
            for session in sessions {
                insert.execute(params![session.0, to_sql(until)])?;
            }
            Ok(())
        })
        .await
    }

    /// # Errors
    /// When the database fails.
    pub async fn revoked_sessions(
        &self,
        now: UnixMillis,
    ) -> Result<Vec<(SessionId, UnixMillis)>, StoreError> {
        self.call(move |db| {
            let mut query = db.prepare(
                "SELECT session, until FROM revoked_sessions WHERE until > ?1 ORDER BY until",
            )?;
            let rows = query.query_map([to_sql(now)], |row| {
                Ok((SessionId(row.get(0)?), from_sql(row.get(1)?)))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

/// The first record of a new chain says what is older than it.
pub(super) fn begin_chain(connection: &mut Connection) -> Result<(), StoreError> {
    let db = connection.transaction()?;
    if read_head(&db)? == Head::EMPTY {
        let earlier: u32 =
            db.query_row("SELECT count(*) FROM audit_before_chain", [], |row| row.get(0))?;
        let detail = json!({ "earlier_records": earlier });
        let began = Entry::new(UnixMillis::now(), Action::ChainBegan, "audit", &detail);
        append(&db, [began])?;
        db.commit()?;
    }
    Ok(())
}

/// Fastens entries to the chain as part of a transaction.
pub(super) fn append(
    db: &Transaction<'_>,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<Head, StoreError> {
    let before = read_head(db)?;
    let mut head = before;
    let mut insert = db.prepare_cached(
        "INSERT INTO audit (number, at, action, subject, detail, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for entry in entries {
        let record = head.append(entry);
        insert.execute(params![
            i64::try_from(record.number).unwrap_or(i64::MAX),
            to_sql(record.at),
            record.action,
            record.subject,
            record.detail,
            record.hash.0,
        ])?;
    }
    if head != before {
        db.execute(
            "UPDATE audit_head SET number = ?1, hash = ?2",
            params![i64::try_from(head.number).unwrap_or(i64::MAX), head.hash.0],
        )?;
    }
    Ok(head)
}

/// Follows the chain of a database, which may be in use, from its first record
/// to its last. It must go through the heads in `kept`.
///
/// # Errors
/// The first record that is broken, or why the file cannot be read.
pub fn verify_audit(path: &Path, kept: Vec<Head>) -> Result<Head, VerifyError> {
    let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
    // One transaction: records and head of the same moment.
    let db = connection.transaction()?;
    let has_chain: Option<u32> = db
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'audit_head'", [], |row| row.get(0))
        .optional()?;
    if has_chain.is_none() {
        return Err(VerifyError::NoChain);
    }
    let mut kept = kept;
    kept.push(read_head(&db)?);
    let mut verifier = Verifier::new(kept);
    let mut query = db.prepare(&format!("{SELECT_RECORDS} ORDER BY number"))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let record = read_record(row)?;
        verifier.check(&record)?;
    }
    Ok(verifier.finish()?)
}

const SELECT_RECORDS: &str = "SELECT number, at, action, subject, detail, hash FROM audit";

fn read_record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        number: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        at: from_sql(row.get(1)?),
        action: row.get(2)?,
        subject: row.get(3)?,
        detail: row.get(4)?,
        hash: Hash(row.get(5)?),
    })
}

fn read_head(db: &Transaction<'_>) -> rusqlite::Result<Head> {
    db.query_row("SELECT number, hash FROM audit_head", [], |row| {
        Ok(Head {
            number: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
            hash: Hash(row.get(1)?),
        })
    })
}

fn parse_placed(session: SessionId, detail: &str) -> Option<PlacedBefore> {
    let detail: serde_json::Value = serde_json::from_str(detail).ok()?;
    let text = |key: &str| Some(detail.get(key)?.as_str()?.to_owned());
    let host = text("host").and_then(|host| host.parse().ok());
    Some(PlacedBefore { session, user: text("user")?, resource: text("resource"), host })
}

#[cfg(test)]
mod tests;
