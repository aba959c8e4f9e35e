//! Subscriptions against a fake feed: what is stored and what is refused.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::core::codes::{Code, Refusal};
use crate::dial::DialErrorKind;
use crate::dial::http::BODY_LENGTH_MAX;
use crate::dial::testing::{TestCa, TestServer, read_head, short_limits};

/// A feed of these titles. Every file but the one of "broken" is signed.
async fn broker(ca: &TestCa, titles: &'static [&'static str]) -> TestServer {
    let mut file = RdpFile::new();
    file.set_string("gatewayhostname", "gw:443");
    let unsigned = file.to_bytes();
    let signed = ca.rdp_signer().sign(&file).unwrap().to_bytes();
    TestServer::start(ca.server(), move |mut stream| {
        let (signed, unsigned) = (signed.clone(), unsigned.clone());
        async move {
            let head = read_head(&mut stream).await;
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let bearer = head.to_ascii_lowercase().contains("\r\nauthorization: bearer alice\r\n");
            let (status, body) = match path.as_str() {
                "/api/feed/discovery" => {
                    assert!(!bearer, "the token goes where it is needed only");
                    (200, br#"{"workspace":"office"}"#.to_vec())
                }
                _ if !bearer => {
                    (401, serde_json::to_vec(&Refusal::new(Code::TokenExpired)).unwrap())
                }
                "/api/feed" => (200, feed(titles)),
                "/rdp/huge" => (200, vec![b'x'; BODY_LENGTH_MAX + 1]),
                "/rdp/broken" => (200, unsigned),
                _ => (200, signed),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n");
            // A client that has read enough hangs up.
            let _gone = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            let _gone = stream.shutdown().await;
        }
    })
    .await
}

fn feed(titles: &[&str]) -> Vec<u8> {
    let resources = titles.iter().enumerate().map(|(n, title)| FeedResource {
        id: format!("res-{n}").parse().unwrap(),
        title: (*title).into(),
        kind: ResourceKind::Desktop,
        rdp_path: match *title {
            "elsewhere" => "//evil.example/x".into(),
            title if title.is_ascii() => format!("/rdp/{}", title.replace(['/', ' '], "-")),
            _ => "/rdp/x".into(),
        },
    });
    let feed =
        Feed { workspace: "office".into(), user: "alice".into(), resources: resources.collect() };
    serde_json::to_vec(&feed).unwrap()
}

fn settings(ca: &TestCa, broker: &TestServer, token: &str, out: &Path) -> SubscribeSettings {
    SubscribeSettings {
        broker: broker.url().parse().unwrap(),
        token: token.parse().unwrap(),
        out: out.into(),
        roots: ca.roots(),
        signers: vec![ca.der()],
        tls: TlsSettings::default(),
        dial: short_limits(),
        timeline: None,
    }
}

#[tokio::test]
async fn files_are_stored_under_names_that_stay_in_their_directory() {
    let ca = TestCa::new();
    let broker = broker(&ca, &["Desk", "../../etc/desk", "desk", "日本語"]).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new");
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&steps);
    let settings = SubscribeSettings {
        timeline: Some(Arc::new(move |event| told.lock().unwrap().push(event.step))),
        ..settings(&ca, &broker, "alice", &out)
    };
    let subscription = fetch(&settings).await.unwrap();
    assert_eq!((subscription.workspace.as_str(), subscription.user.as_str()), ("office", "alice"));
    let names: Vec<_> = subscription
        .files
        .iter()
        .map(|file| file.path.strip_prefix(&out).unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["Desk.rdp", "etc-desk.rdp", "desk (res-2).rdp", "日本語.rdp"]);
    assert!(subscription.files.iter().all(|file| file.signer.is_some()));
    for file in &subscription.files {
        let stored = RdpFile::parse(&std::fs::read(&file.path).unwrap()).unwrap();
        assert_eq!(stored.string("gatewayhostname"), Some("gw:443"));
    }
    assert_eq!(*steps.lock().unwrap(), [1, 3, 5, 6]);
}

#[tokio::test]
async fn nothing_is_stored_unless_all_of_it_is_in_order() {
    let ca = TestCa::new();
    let folder = tempfile::tempdir().unwrap();
    for (titles, problem) in [
        (&["good", "broken"], "not trusted"),
        (&["good", "huge"], "longer than"),
        (&["good", "elsewhere"], "not a path on the broker"),
    ] {
        let broker = broker(&ca, titles).await;
        let error = fetch(&settings(&ca, &broker, "alice", folder.path())).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_refused_token_keeps_its_code() {
    let ca = TestCa::new();
    let broker = broker(&ca, &["Desk"]).await;
    let folder = tempfile::tempdir().unwrap();
    let error = fetch(&settings(&ca, &broker, "mallory", folder.path())).await.unwrap_err();
    let SubscribeError::Dial(error) = error else { panic!("{error:?}") };
    assert!(
        matches!(&error.kind, DialErrorKind::Refused(r) if r.code == Code::TokenExpired),
        "{error:?}"
    );
    assert_eq!(error.purpose, Purpose::FEED);
}

#[test]
fn long_titles_fit_a_file_system() {
    let mut taken = HashSet::new();
    for (title, id) in [("漢".repeat(300), "a".repeat(63)), ("漢".repeat(300), "b".repeat(63))] {
        let resource = FeedResource {
            id: id.parse().unwrap(),
            title,
            kind: ResourceKind::Desktop,
            rdp_path: "/x".into(),
        };
        let name = file_name(&resource, &mut taken);
        assert!(name.len() + ".new".len() <= 255, "{}", name.len());
    }
    for title in ["", "..", " . ", "/", "-"] {
        let resource = FeedResource {
            id: "the-id".parse().unwrap(),
            title: title.into(),
            kind: ResourceKind::Desktop,
            rdp_path: "/x".into(),
        };
        assert_eq!(file_name(&resource, &mut HashSet::new()), "the-id.rdp");
    }
}
