//! What the connector finds out, and that nobody waits for it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::dial::testing::{TestCa, TestServer, eventually, read_head, short_limits};

/// A gateway that lists these under `GET /api/gateways`, counts how often, and
/// answers the probes of one measurement. Without a list it never answers.
async fn gateway(ca: &TestCa, list: Option<GatewayList>, asked: &Arc<AtomicUsize>) -> TestServer {
    let body = list.map(|list| serde_json::to_string(&list).unwrap());
    let asked = Arc::clone(asked);
    TestServer::start(ca.server(), move |mut stream| {
        let (body, asked) = (body.clone(), Arc::clone(&asked));
        async move {
            for _ in 0..3 {
                let head = read_head(&mut stream).await;
                if !head.starts_with("GET /probe HTTP/1.1\r\n") {
                    let head = head.to_ascii_lowercase();
                    assert!(head.starts_with("get /api/gateways http/1.1\r\n"), "{head}");
                    assert!(head.contains("\r\nauthorization: bearer t\r\n"), "{head}");
                    asked.fetch_add(1, SeqCst);
                    let Some(body) = &body else { return std::future::pending().await };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                    return stream.write_all(answer.as_bytes()).await.unwrap();
                }
                let answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await
}

fn ways(ca: &TestCa, entry: &TestServer) -> Ways {
    let https = HttpsClient::new(ca.client(), short_limits()).unwrap();
    Ways::new(entry.url().parse().unwrap(), "t".parse().unwrap(), https, ca.dialer())
}

fn listed(name: &str, url: String) -> ListedGateway {
    ListedGateway { gateway: name.parse().unwrap(), url }
}

#[tokio::test]
async fn every_listed_gateway_is_measured_once_and_remembered() {
    let ca = TestCa::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let near = gateway(&ca, None, &asked).await;
    // Bound but not listening: nobody else can get the port meanwhile.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = format!("https://127.0.0.1:{}", deaf.local_addr().unwrap().port());
    let list = GatewayList {
        gateways: vec![
            listed("near", near.url()),
            listed("gone", gone),
            listed("odd", "http://not.a.gateway".into()),
        ],
    };
    let entry = gateway(&ca, Some(list), &asked).await;
    let ways = ways(&ca, &entry);
    ways.look().await;
    eventually("all are measured", || {
        let Sightings { samples, unreachable } = ways.sightings();
        samples.len() + unreachable.len() == 2
    })
    .await;
    let Sightings { samples, unreachable } = ways.look().await;
    assert_eq!(samples[0].gateway.as_str(), "near");
    assert!(samples[0].rtt_us > 0);
    assert_eq!(unreachable[0].as_str(), "gone");
    assert_eq!(asked.load(SeqCst), 1);
    // What a session finds out counts as well.
    ways.note_unreachable(&samples[0].gateway);
    assert_eq!(ways.look().await.unreachable.len(), 2);
}

#[tokio::test]
async fn a_session_does_not_wait_for_a_list_that_does_not_come() {
    let ca = TestCa::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let entry = gateway(&ca, None, &asked).await;
    let ways = ways(&ca, &entry);
    for _ in 0..2 {
        let sightings = timeout(Duration::from_secs(8), ways.look()).await.unwrap();
        assert!(sightings.samples.is_empty() && sightings.unreachable.is_empty());
    }
    eventually("it was asked for", || asked.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn a_single_gateway_is_not_measured() {
    let ca = TestCa::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let only = GatewayList { gateways: vec![listed("only", "https://127.0.0.1:1".into())] };
    let entry = gateway(&ca, Some(only), &asked).await;
    let ways = ways(&ca, &entry);
    for _ in 0..3 {
        let Sightings { samples, unreachable } = ways.look().await;
        assert!(samples.is_empty() && unreachable.is_empty());
    }
}
