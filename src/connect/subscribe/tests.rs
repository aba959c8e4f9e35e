//! Subscriptions against a fake feed: what is stored, kept, removed, refused.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::core::codes::{Code, Refusal};
use crate::dial::DialErrorKind;
use crate::dial::http::BODY_LENGTH_MAX;
use crate::dial::testing::{TestCa, TestServer, read_head, short_limits};

/// A broker of which the feed can be changed, and that remembers what it was
/// asked for with a token.
struct FakeBroker {
    ca: TestCa,
    server: TestServer,
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    feed: Vec<FeedResource>,
    asked: Vec<String>,
}

fn resource(id: &str, title: &str, revision: Option<&str>) -> FeedResource {
    FeedResource {
        id: id.parse().unwrap(),
        title: title.into(),
        kind: ResourceKind::Desktop,
        rdp_path: match title {
            "elsewhere" => "//evil.example/x".into(),
            "huge" | "unsigned" => format!("/rdp/{title}"),
            _ => format!("/rdp/{id}"),
        },
        workspace: None,
        revision: revision.map(ToOwned::to_owned),
    }
}

impl FakeBroker {
    async fn start(titles: &[&str]) -> Self {
        let ca = TestCa::new();
        let feed = titles.iter().enumerate();
        let feed = feed.map(|(n, title)| resource(&format!("res-{n}"), title, None)).collect();
        let content = Arc::new(Mutex::new(Content { feed, asked: Vec::new() }));
        let signer = Arc::new(ca.rdp_signer());
        let shared = Arc::clone(&content);
        let server = TestServer::start(ca.server(), move |mut stream| {
            let (shared, signer) = (Arc::clone(&shared), Arc::clone(&signer));
            async move {
                let head = read_head(&mut stream).await;
                let (status, tag, body) = answer(&head, &shared, &signer);
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} x\r\nETag: {tag}\r\nContent-Length: {length}\r\n\r\n"
                );
                // A client that has read enough hangs up.
                let _gone = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                let _gone = stream.shutdown().await;
            }
        })
        .await;
        Self { ca, server, content }
    }

    fn set(&self, feed: Vec<FeedResource>) {
        self.content.lock().unwrap().feed = feed;
    }

    /// What it was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.content.lock().unwrap().asked)
    }

    fn settings(&self, token: &str, out: &Path) -> SubscribeSettings {
        SubscribeSettings {
            broker: self.server.url().parse().unwrap(),
            token: token.parse().unwrap(),
            out: out.into(),
            roots: self.ca.roots(),
            signers: vec![self.ca.der()],
            tls: TlsSettings::default(),
            dial: short_limits(),
            timeline: None,
        }
    }

    async fn fetch(&self, out: &Path) -> Subscription {
        fetch(&self.settings("alice", out)).await.unwrap()
    }
}

/// Status, entity tag and body.
fn answer(
    head: &str,
    content: &Mutex<Content>,
    signer: &rdp_signature::Signer,
) -> (u16, String, Vec<u8>) {
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
    };
    let bearer = header("authorization").is_some_and(|value| value == "Bearer alice");
    let tag = |body: &[u8]| format!("\"{}\"", record::sha256(body));
    if path == "/api/feed/discovery" {
        assert!(!bearer, "the token goes where it is needed only");
        return (200, "\"d\"".into(), br#"{"workspace":"office"}"#.to_vec());
    }
    if !bearer {
        let refusal = serde_json::to_vec(&Refusal::new(Code::TokenExpired)).unwrap();
        return (401, "\"r\"".into(), refusal);
    }
    let mut content = content.lock().unwrap();
    content.asked.push(path.clone());
    if path == "/api/feed" {
        let feed = Feed {
            workspace: "office".into(),
            user: "alice".into(),
            resources: content.feed.clone(),
            workspaces: vec![],
        };
        let body = serde_json::to_vec(&feed).unwrap();
        let tag = tag(&body);
        let known = header("if-none-match").is_some_and(|known| known == tag);
        return if known { (304, tag, vec![]) } else { (200, tag, body) };
    }
    let mut file = RdpFile::new();
    file.set_string("gatewayhostname", "gw:443");
    let revision =
        content.feed.iter().find(|r| r.rdp_path == path).and_then(|r| r.revision.clone());
    file.set_string("full address", &format!("{path}{}", revision.unwrap_or_default()));
    let body = match path.as_str() {
        "/rdp/huge" => vec![b'x'; BODY_LENGTH_MAX + 1],
        "/rdp/unsigned" => file.to_bytes(),
        _ => signer.sign(&file).unwrap().to_bytes(),
    };
    (200, tag(&body), body)
}

/// The names in a directory that people see.
fn names(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

#[tokio::test]
async fn step06_files_are_stored_under_names_that_stay_in_their_directory() {
    let broker = FakeBroker::start(&["Desk", "../../etc/desk", "desk", "日本語"]).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new");
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let settings = SubscribeSettings {
        timeline: Some(Arc::new(move |event| told.lock().unwrap().push(event.step))),
        ..broker.settings("alice", &out)
    };
    let subscription = fetch(&settings).await.unwrap();
    assert_eq!((subscription.workspace.as_str(), subscription.user.as_str()), ("office", "alice"));
    assert!(subscription.is_news());
    let stored = subscription.files.iter().map(|file| file.path.strip_prefix(&out).unwrap());
    let stored: Vec<_> = stored.map(|path| path.to_str().unwrap()).collect();
    assert_eq!(stored, ["Desk.rdp", "etc-desk.rdp", "desk (res-2).rdp", "日本語.rdp"]);
    assert!(subscription.files.iter().all(|file| file.signer.is_some() && file.written));
    for file in &subscription.files {
        let stored = RdpFile::parse(&std::fs::read(&file.path).unwrap()).unwrap();
        assert_eq!(stored.string("gatewayhostname"), Some("gw:443"));
        let mode = file.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    }
    assert_eq!(names(folder.path()), ["new"], "nothing is anywhere else");
    assert_eq!(*steps.lock().unwrap(), [1, 3, 5, 6]);
}

#[tokio::test]
async fn nothing_is_stored_unless_all_of_it_is_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for (title, problem) in [
        ("unsigned", "not trusted"),
        ("huge", "longer than"),
        ("elsewhere", "not a path on the broker"),
    ] {
        let broker = FakeBroker::start(&["good", title]).await;
        let error = fetch(&broker.settings("alice", folder.path())).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    let broker = FakeBroker::start(&[]).await;
    broker.set(vec![resource("a", "A", None), resource("a", "B", None)]);
    let error = fetch(&broker.settings("alice", folder.path())).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Twice(_)), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refused_token_keeps_its_code() {
    let broker = FakeBroker::start(&["Desk"]).await;
    let folder = tempfile::tempdir().unwrap();
    let error = fetch(&broker.settings("mallory", folder.path())).await.unwrap_err();
    let SubscribeError::Dial(error) = error else { panic!("{error:?}") };
    assert!(
        matches!(&error.kind, DialErrorKind::Refused(r) if r.code == Code::TokenExpired),
        "{error:?}"
    );
    assert_eq!(error.purpose, Purpose::FEED);
}

#[tokio::test]
async fn what_has_not_changed_is_neither_fetched_nor_written_again() {
    let broker = FakeBroker::start(&[]).await;
    broker.set(vec![resource("a", "A", Some("1")), resource("b", "B", Some("1"))]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    broker.fetch(out).await;
    assert_eq!(broker.asked(), ["/api/feed", "/rdp/a", "/rdp/b"]);
    let written = |name: &str| out.join(name).metadata().unwrap().modified().unwrap();
    let (a, b) = (written("A.rdp"), written("B.rdp"));

    let again = broker.fetch(out).await;
    assert_eq!(broker.asked(), ["/api/feed"], "and that is answered with 304");
    assert!(!again.is_news());
    assert_eq!(again.files.len(), 2);
    assert!(again.files.iter().all(|file| file.signer.is_some() && !file.written));

    broker.set(vec![resource("a", "A", Some("1")), resource("b", "B", Some("2"))]);
    let again = broker.fetch(out).await;
    assert_eq!(broker.asked(), ["/api/feed", "/rdp/b"]);
    assert_eq!(again.files.iter().map(|file| file.written).collect::<Vec<_>>(), [false, true]);
    assert_eq!(written("A.rdp"), a);
    assert_ne!(written("B.rdp"), b);
    let stored = RdpFile::parse(&std::fs::read(out.join("B.rdp")).unwrap()).unwrap();
    assert_eq!(stored.string("full address"), Some("/rdp/b2"));
}

#[tokio::test]
async fn a_file_that_was_lost_or_changed_here_is_made_right_again() {
    let broker = FakeBroker::start(&[]).await;
    broker.set(vec![resource("a", "A", Some("1")), resource("b", "B", Some("1"))]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    broker.fetch(out).await;
    let right = std::fs::read(out.join("B.rdp")).unwrap();
    broker.asked();
    std::fs::remove_file(out.join("A.rdp")).unwrap();
    std::fs::write(out.join("B.rdp"), "full address:s:evil\r\n").unwrap();
    let again = broker.fetch(out).await;
    assert_eq!(broker.asked(), ["/api/feed", "/rdp/a", "/rdp/b"]);
    assert!(again.files.iter().all(|file| file.written));
    assert_eq!(std::fs::read(out.join("B.rdp")).unwrap(), right);
}

#[tokio::test]
async fn files_of_what_is_not_assigned_any_more_go_if_they_are_ours() {
    let broker = FakeBroker::start(&["Gone", "Edited", "Old title"]).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    std::fs::write(out.join("notes.rdp"), "full address:s:mine\r\n").unwrap();
    broker.fetch(out).await;
    let edited = "full address:s:edited\r\n";
    std::fs::write(out.join("Edited.rdp"), edited).unwrap();
    broker.set(vec![resource("res-2", "New title", None)]);
    let again = broker.fetch(out).await;
    assert_eq!(again.removed, [out.join("Gone.rdp"), out.join("Old title.rdp")]);
    assert_eq!(again.left_behind, [out.join("Edited.rdp")]);
    assert_eq!(names(out), ["Edited.rdp", "New title.rdp", "notes.rdp"]);
    assert_eq!(std::fs::read_to_string(out.join("Edited.rdp")).unwrap(), edited);
    let last = broker.fetch(out).await;
    assert!(last.removed.is_empty() && last.left_behind.is_empty(), "{last:?}");
}

#[tokio::test]
async fn the_files_of_others_are_left_alone() {
    let broker = FakeBroker::start(&["Desk"]).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    std::fs::write(&target, "untouched").unwrap();
    std::os::unix::fs::symlink(&target, out.join("Desk.rdp")).unwrap();
    let stored = broker.fetch(out).await;
    assert_eq!(stored.files[0].path, out.join("Desk (res-0).rdp"));
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "untouched");

    // Another broker with the same titles shares the directory.
    let other = FakeBroker::start(&["Desk"]).await;
    std::fs::remove_file(out.join("Desk.rdp")).unwrap();
    assert_eq!(other.fetch(out).await.files[0].path, out.join("Desk.rdp"));
    assert!(broker.fetch(out).await.files[0].path.ends_with("Desk (res-0).rdp"));
    other.set(vec![]);
    assert_eq!(other.fetch(out).await.removed, [out.join("Desk.rdp")]);
    assert_eq!(names(out), ["Desk (res-0).rdp"]);

    std::fs::write(out.join("New.rdp"), "mine").unwrap();
    std::fs::write(out.join("New (a).rdp"), "mine").unwrap();
    broker.set(vec![resource("a", "New", None)]);
    let error = fetch(&broker.settings("alice", out)).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Occupied(_)), "{error}");
}

#[tokio::test]
async fn what_a_lost_record_leaves_is_taken_over() {
    let broker = FakeBroker::start(&["Desk"]).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    broker.fetch(out).await;
    let record = record::path(out, &broker.settings("", out).broker);
    std::fs::remove_file(&record).unwrap();
    assert_eq!(broker.fetch(out).await.files[0].path, out.join("Desk.rdp"));
    assert_eq!(names(out), ["Desk.rdp"]);
    let mode = record.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
