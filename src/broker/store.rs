//! What must never be lost: SQLite in the state directory.
//!
//! Write-ahead log with `synchronous=FULL`: what was answered survives a power
//! cut. Calls block on the disk, so they run on tokio's blocking threads, one
//! at a time: enrolments and drains are rare.

mod audit;
mod pools;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction, params};
use serde_json::json;

pub use self::audit::{PlacedBefore, VerifyError, verify_audit};
use crate::core::audit::{Action, Entry};
use crate::core::clock::UnixMillis;
use crate::core::codes::{Code, Refusal};
use crate::core::ids::{HostId, PoolId};
use crate::wire::enroll::MachineRole;

/// Each entry lifts the schema by one version. Never change one that was
/// released: add another.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_server_names.sql"),
    include_str!("migrations/0003_pools.sql"),
    include_str!("migrations/0004_audit_chain.sql"),
];

/// How long a statement waits for another process (a backup) to let go.
const BUSY_TIMEOUT_MS: u64 = 5_000;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    #[error(
        "the database has version {found}, this program knows {known}; upgrade ringway or restore a backup"
    )]
    TooNew { found: u32, known: u32 },
    #[error("the database holds {0:?}, which is not valid; restore a backup")]
    Content(String),
    #[error("the database thread was stopped")]
    Stopped,
    /// The caller's request was refused; nothing was changed.
    #[error("{0}")]
    Refused(Refusal),
}

/// A machine that was enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub role: MachineRole,
    pub name: String,
    pub pool: Option<PoolId>,
    pub key_sha256: Vec<u8>,
    pub enrolled_at: UnixMillis,
    pub revoked: bool,
}

/// An enrolment token as it is stored: by its hash only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolToken {
    pub hash: Vec<u8>,
    pub role: MachineRole,
    pub pool: Option<PoolId>,
    pub expires_at: UnixMillis,
    pub uses_left: u32,
    /// Names that a gateway of this token may serve under.
    pub server_names: Vec<String>,
}

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens the file, makes or upgrades its tables.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, or is newer than this program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        migrate(&mut connection)?;
        audit::begin_chain(&mut connection)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = Arc::clone(&self.connection);
        let blocking = tokio::task::spawn_blocking(move || {
            // A poisoned lock is still a whole database: an unfinished
            // transaction was rolled back when it was dropped.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = connection.transaction()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        });
        blocking.await.map_err(|_| StoreError::Stopped)?
    }

    /// # Errors
    /// When the database fails.
    pub async fn add_enrol_token(
        &self,
        token: EnrolToken,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.call(move |db| {
            db.execute(
                "INSERT INTO enrol_tokens
                   (hash, role, pool, created_at, expires_at, uses_left, server_names)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    token.hash,
                    token.role.as_str(),
                    token.pool.as_ref().map(PoolId::as_str),
                    to_sql(now),
                    to_sql(token.expires_at),
                    token.uses_left,
                    serde_json::Value::from(token.server_names.clone()).to_string(),
                ],
            )?;
            let detail = json!({
                "role": token.role.as_str(),
                "pool": token.pool.as_ref().map(PoolId::as_str),
                "uses": token.uses_left,
                "expires_at": token.expires_at,
                "server_names": token.server_names,
            });
            let id = hex::encode(token.hash.get(..4).unwrap_or_default());
            audit::append(db, [Entry::new(now, Action::EnrolTokenCreated, id, &detail)])?;
            Ok(())
        })
        .await
    }

    /// Tokens that can still be used.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enrol_tokens(&self, now: UnixMillis) -> Result<Vec<EnrolToken>, StoreError> {
        self.call(move |db| {
            let mut query = db.prepare(
                "SELECT hash, role, pool, expires_at, uses_left, server_names FROM enrol_tokens
                 WHERE expires_at > ?1 AND uses_left > 0 ORDER BY expires_at",
            )?;
            let mut rows = query.query([to_sql(now)])?;
            let mut tokens = Vec::new();
            while let Some(row) = rows.next()? {
                tokens.push(read_token(row)?);
            }
            Ok(tokens)
        })
        .await
    }

    /// Whether a token could be redeemed, without using it.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with one of the `enrol_token_*` codes.
    pub async fn check_enrol_token(
        &self,
        hash: Vec<u8>,
        role: MachineRole,
        now: UnixMillis,
    ) -> Result<EnrolToken, StoreError> {
        self.call(move |db| find_token(db, &hash, role, now)).await
    }

    /// Uses a token once and records the machine. The key of a machine of the
    /// same name, role and pool is replaced: that is how a reinstalled one
    /// comes back. A token does not move a machine to another pool, nor bring
    /// back one that was revoked: that is the operator's to allow.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with one of the `enrol_token_*` codes, or what
    /// speaks against this machine.
    pub async fn enrol(
        &self,
        token_hash: Vec<u8>,
        role: MachineRole,
        name: String,
        key_sha256: Vec<u8>,
        server_names: Vec<String>,
        now: UnixMillis,
    ) -> Result<Option<PoolId>, StoreError> {
        self.call(move |db| {
            let token = find_token(db, &token_hash, role, now)?;
            if let Some(known) = find_machine(db, role, &name)? {
                may_enrol_again(&known, token.pool.as_ref())?;
            }
            db.execute(
                "UPDATE enrol_tokens SET uses_left = uses_left - 1 WHERE hash = ?1",
                [&token_hash],
            )?;
            db.execute(
                "INSERT INTO machines (role, name, pool, key_sha256, enrolled_at, revoked_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, NULL)
                 ON CONFLICT (role, name) DO UPDATE SET
                   key_sha256 = excluded.key_sha256, enrolled_at = excluded.enrolled_at",
                params![
                    role.as_str(),
                    name,
                    token.pool.as_ref().map(PoolId::as_str),
                    key_sha256,
                    to_sql(now)
                ],
            )?;
            let detail = json!({
                "role": role.as_str(),
                "pool": token.pool.as_ref().map(PoolId::as_str),
                "key_sha256": hex::encode(&key_sha256),
                "server_names": server_names,
                "token": hex::encode(token_hash.get(..4).unwrap_or_default()),
            });
            audit::append(db, [Entry::new(now, Action::Enrolled, &name, &detail)])?;
            Ok(token.pool)
        })
        .await
    }

    /// # Errors
    /// When the database fails.
    pub async fn machine(
        &self,
        role: MachineRole,
        name: String,
    ) -> Result<Option<Machine>, StoreError> {
        self.call(move |db| find_machine(db, role, &name)).await
    }

    /// # Errors
    /// When the database fails.
    pub async fn machines(&self) -> Result<Vec<Machine>, StoreError> {
        self.call(|db| {
            let mut query = db.prepare(&format!("{SELECT_MACHINES} ORDER BY role, name"))?;
            let mut rows = query.query([])?;
            let mut machines = Vec::new();
            while let Some(row) = rows.next()? {
                machines.push(read_machine(row)?);
            }
            Ok(machines)
        })
        .await
    }

    /// Takes a machine's right to connect away. `false` when there is none of
    /// that name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke(
        &self,
        role: MachineRole,
        name: String,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.call(move |db| {
            let changed = db.execute(
                "UPDATE machines SET revoked_at = COALESCE(revoked_at, ?3)
                 WHERE role = ?1 AND name = ?2",
                params![role.as_str(), name, to_sql(now)],
            )?;
            if changed > 0 {
                let detail = json!({ "role": role.as_str() });
                audit::append(db, [Entry::new(now, Action::Revoked, &name, &detail)])?;
            }
            Ok(changed > 0)
        })
        .await
    }

    /// Forgets a machine that was revoked: another may enrol under its name,
    /// in any pool. Its old key stays void. `false` when no such machine is
    /// revoked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget(
        &self,
        role: MachineRole,
        name: String,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.call(move |db| {
            let changed = db.execute(
                "DELETE FROM machines WHERE role = ?1 AND name = ?2 AND revoked_at IS NOT NULL",
                params![role.as_str(), name],
            )?;
            if changed > 0 {
                let detail = json!({ "role": role.as_str() });
                audit::append(db, [Entry::new(now, Action::Forgotten, &name, &detail)])?;
            }
            Ok(changed > 0)
        })
        .await
    }

    /// # Errors
    /// When the database fails.
    pub async fn set_drained(
        &self,
        host: HostId,
        drained: bool,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.call(move |db| {
            DRAINS.set(db, host.as_str(), drained, now)?;
            let action = if drained { Action::Drained } else { Action::Undrained };
            audit::append(db, [Entry::new(now, action, &host, &json!({}))])?;
            Ok(())
        })
        .await
    }

    /// Hosts that take no new users.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drained(&self) -> Result<Vec<HostId>, StoreError> {
        self.call(|db| DRAINS.read(db)).await
    }
}

const DRAINS: Names = Names { table: "drains", column: "host" };

/// A table of names, each with the time since when it is there.
struct Names {
    table: &'static str,
    column: &'static str,
}

impl Names {
    /// Puts a name in, or takes it out. One that is in stays as it is.
    fn set(
        &self,
        db: &Transaction<'_>,
        name: &str,
        listed: bool,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let Self { table, column } = self;
        if listed {
            let insert = format!("INSERT OR IGNORE INTO {table} ({column}, since) VALUES (?1, ?2)");
            db.execute(&insert, params![name, to_sql(now)])?;
        } else {
            db.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [name])?;
        }
        Ok(())
    }

    fn read<T: TryFrom<String>>(&self, db: &Transaction<'_>) -> Result<Vec<T>, StoreError> {
        let Self { table, column } = self;
        let mut query = db.prepare(&format!("SELECT {column} FROM {table} ORDER BY {column}"))?;
        let names = query.query_map([], |row| row.get::<_, String>(0))?;
        names.map(|name| parse(name?)).collect()
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut known = 0;
    for migration in MIGRATIONS {
        known += 1;
        if known > found {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", known)?;
            transaction.commit()?;
        }
    }
    if found > known { Err(StoreError::TooNew { found, known }) } else { Ok(()) }
}

const SELECT_MACHINES: &str =
    "SELECT role, name, pool, key_sha256, enrolled_at, revoked_at IS NOT NULL FROM machines";

fn find_token(
    db: &Transaction<'_>,
    hash: &[u8],
    role: MachineRole,
    now: UnixMillis,
) -> Result<EnrolToken, StoreError> {
    let mut query = db.prepare(
        "SELECT hash, role, pool, expires_at, uses_left, server_names FROM enrol_tokens
         WHERE hash = ?1",
    )?;
    let mut rows = query.query([hash])?;
    let Some(row) = rows.next()? else {
        return Err(StoreError::Refused(Code::EnrolTokenInvalid.into()));
    };
    let token = read_token(row)?;
    if token.role != role {
        Err(StoreError::Refused(Code::EnrolTokenInvalid.into()))
    } else if token.expires_at <= now {
        Err(StoreError::Refused(Code::EnrolTokenExpired.into()))
    } else if token.uses_left == 0 {
        Err(StoreError::Refused(Code::EnrolTokenUsedUp.into()))
    } else {
        Ok(token)
    }
}

fn find_machine(
    db: &Transaction<'_>,
    role: MachineRole,
    name: &str,
) -> Result<Option<Machine>, StoreError> {
    let mut query = db.prepare(&format!("{SELECT_MACHINES} WHERE role = ?1 AND name = ?2"))?;
    let mut rows = query.query(params![role.as_str(), name])?;
    rows.next()?.map(read_machine).transpose()
}

fn may_enrol_again(known: &Machine, pool: Option<&PoolId>) -> Result<(), StoreError> {
    let (role, name) = (known.role.as_str(), &known.name);
    let refused = |code, detail| Err(StoreError::Refused(Refusal::with_detail(code, detail)));
    if known.revoked {
        let detail =
            format!("it was revoked; on the broker: ringway ctl revoke {role} {name} --undo");
        return refused(Code::MachineUnknown, detail);
    }
    if known.pool.as_ref() != pool {
        let detail = format!(
            "{name} is enrolled in another pool than the token's; choose another --name, or \
             revoke it on the broker and undo that: ringway ctl revoke {role} {name}"
        );
        return refused(Code::EnrolRequestInvalid, detail);
    }
    Ok(())
}

fn read_token(row: &rusqlite::Row<'_>) -> Result<EnrolToken, StoreError> {
    Ok(EnrolToken {
        hash: row.get(0)?,
        role: parse_role(row.get(1)?)?,
        pool: row.get::<_, Option<String>>(2)?.map(parse).transpose()?,
        expires_at: from_sql(row.get(3)?),
        uses_left: row.get(4)?,
        server_names: parse_names(row.get(5)?)?,
    })
}

fn read_machine(row: &rusqlite::Row<'_>) -> Result<Machine, StoreError> {
    Ok(Machine {
        role: parse_role(row.get(0)?)?,
        name: row.get(1)?,
        pool: row.get::<_, Option<String>>(2)?.map(parse).transpose()?,
        key_sha256: row.get(3)?,
        enrolled_at: from_sql(row.get(4)?),
        revoked: row.get(5)?,
    })
}

fn parse<T: TryFrom<String>>(text: String) -> Result<T, StoreError> {
    T::try_from(text.clone()).map_err(|_| StoreError::Content(text))
}

fn parse_names(text: String) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(&text).map_err(|_| StoreError::Content(text))
}

fn parse_role(text: String) -> Result<MachineRole, StoreError> {
    [MachineRole::Agent, MachineRole::Gateway]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or(StoreError::Content(text))
}

fn to_sql(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn from_sql(time: i64) -> UnixMillis {
    UnixMillis(u64::try_from(time).unwrap_or(0))
}
