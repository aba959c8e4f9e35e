//! The chain on the disk: it refuses changes, and tells those that were made
//! behind its back.

use super::super::super::testing::TemporaryDir;
use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn closed(number: u8) -> Entry {
    let session = SessionId([number; 16]);
    Entry::new(NOW, Action::Closed, session, &json!({ "reason": "client_closed" }))
}

/// A database with so many records behind its first one.
async fn with_records(dir: &TemporaryDir, count: u8) -> std::path::PathBuf {
    let path = dir.path().join("db");
    let store = Store::open(&path).unwrap();
    let head = store.append_audit((0..count).map(closed).collect()).await.unwrap();
    assert_eq!((head.number, head), (u64::from(count) + 1, store.audit_head().await.unwrap()));
    path
}

/// Does what the triggers refuse.
fn tamper(path: &Path, sql: &str) {
    let db = Connection::open(path).unwrap();
    assert!(db.execute_batch(sql).is_err(), "nothing refuses {sql}");
    let triggers = ["is_not_changed", "is_not_deleted", "only_grows", "head_only_grows"];
    for trigger in triggers {
        db.execute_batch(&format!("DROP TRIGGER audit_{trigger}")).unwrap();
    }
    db.execute_batch(sql).unwrap();
}

fn broken(path: &Path, kept: Vec<Head>) -> Broken {
    match verify_audit(path, kept) {
        Err(VerifyError::Broken(broken)) => broken,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_whole_trail_is_whole_also_while_it_is_written() {
    let dir = TemporaryDir::new();
    let path = with_records(&dir, 5).await;
    let earlier = verify_audit(&path, vec![]).unwrap();
    assert_eq!(earlier.number, 6);
    let store = Store::open(&path).unwrap();
    store.set_drained("host-1".parse().unwrap(), true, NOW).await.unwrap();
    assert_eq!(verify_audit(&path, vec![earlier]).unwrap().number, 7);
    let last = store.audit_after(6, UnixMillis(0), 10).await.unwrap();
    assert_eq!((last[0].action.as_str(), last[0].subject.as_str()), ("drained", "host-1"));
    assert_eq!(store.audit_after(0, UnixMillis(0), 2).await.unwrap().len(), 2);
    assert!(store.audit_after(1, NOW.plus_ms(1), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_done_behind_its_back_is_refused_and_else_found() {
    for (sql, expected) in [
        ("UPDATE audit SET detail = '{}' WHERE number = 3", Broken::Changed { number: 3 }),
        ("UPDATE audit SET at = at + 1 WHERE number = 6", Broken::Changed { number: 6 }),
        ("DELETE FROM audit WHERE number = 4", Broken::Missing { number: 4 }),
        ("DELETE FROM audit WHERE number = 6", Broken::Missing { number: 6 }),
        ("DELETE FROM audit", Broken::Missing { number: 1 }),
        (
            "INSERT OR REPLACE INTO audit SELECT 2, at, action, subject, detail, hash
             FROM audit WHERE number = 3",
            Broken::Changed { number: 2 },
        ),
        (
            "UPDATE audit SET number = -1 WHERE number = 2;
             UPDATE audit SET number = 2 WHERE number = 5;
             UPDATE audit SET number = 5 WHERE number = -1",
            Broken::Changed { number: 2 },
        ),
        // The end is cut off and the head is made to fit the rest.
        (
            "DELETE FROM audit WHERE number > 4;
             UPDATE audit_head SET number = 4, hash = (SELECT hash FROM audit WHERE number = 4)",
            Broken::Missing { number: 5 },
        ),
    ] {
        let dir = TemporaryDir::new();
        let path = with_records(&dir, 5).await;
        let kept = verify_audit(&path, vec![]).unwrap();
        tamper(&path, sql);
        assert_eq!(broken(&path, vec![kept]), expected, "{sql}");
    }
}

#[tokio::test]
async fn a_database_of_an_older_version_begins_its_chain_and_says_so() {
    let dir = TemporaryDir::new();
    let path = dir.path().join("db");
    {
        let db = Connection::open(&path).unwrap();
        for migration in &super::super::MIGRATIONS[..2] {
            db.execute_batch(migration).unwrap();
        }
        db.pragma_update(None, "user_version", 2).unwrap();
        for number in 1..=3 {
            let sql =
                "INSERT INTO audit (at, action, subject, detail) VALUES (?1, 'enrolled', 'h', '')";
            db.execute(sql, [number]).unwrap();
        }
    }
    assert!(matches!(verify_audit(&path, vec![]), Err(VerifyError::NoChain)));
    let store = Store::open(&path).unwrap();
    let all = store.audit_after(0, UnixMillis(0), 10).await.unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].action, "chain_began");
    assert_eq!(all[0].detail, r#"{"earlier_records":3}"#);
    drop(store);
    // The next start does not begin another one.
    let again = Store::open(&path).unwrap();
    assert_eq!(again.audit_head().await.unwrap().number, 1);
    assert_eq!(verify_audit(&path, vec![]).unwrap().number, 1);
}

#[tokio::test]
async fn sessions_that_may_still_run_are_known_by_their_users() {
    let dir = TemporaryDir::new();
    let store = Store::open(&dir.path().join("db")).unwrap();
    let placed = |number: u8, at| {
        let detail = json!({ "user": "ann", "resource": "desktop", "host": "h" });
        Entry::new(at, Action::Placed, SessionId([number; 16]), &detail)
    };
    let entries = vec![
        placed(9, UnixMillis(NOW.0 - 1)),
        placed(1, NOW),
        placed(2, NOW),
        closed(1),
        Entry::new(NOW, Action::Connected, SessionId([2; 16]), &json!({})),
    ];
    store.append_audit(entries).await.unwrap();
    let known = store.placed_before(NOW, 10).await.unwrap();
    let ann = PlacedBefore {
        session: SessionId([2; 16]),
        user: "ann".into(),
        resource: Some("desktop".into()),
        host: Some("h".parse().unwrap()),
    };
    assert_eq!(known, [ann]);
    assert!(store.placed_before(NOW, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn revoked_sessions_survive_a_restart_until_their_time() {
    let dir = TemporaryDir::new();
    let path = dir.path().join("db");
    let (one, two) = (SessionId([1; 16]), SessionId([2; 16]));
    {
        let store = Store::open(&path).unwrap();
        store.revoke_sessions(vec![one], NOW.plus_ms(10), NOW).await.unwrap();
        store.revoke_sessions(vec![two], NOW.plus_ms(30), NOW.plus_ms(5)).await.unwrap();
    }
    let store = Store::open(&path).unwrap();
    let listed = async |now| store.revoked_sessions(now).await.unwrap();
    assert_eq!(listed(NOW).await, [(one, NOW.plus_ms(10)), (two, NOW.plus_ms(30))]);
    assert_eq!(listed(NOW.plus_ms(10)).await, [(two, NOW.plus_ms(30))]);
    store.revoke_sessions(vec![], NOW, NOW.plus_ms(30)).await.unwrap();
    assert!(listed(NOW).await.is_empty(), "those that are over are forgotten");
}
