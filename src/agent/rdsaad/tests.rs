//! Clients at the door of an RDP server, over real TLS.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientTls;

use super::judge::ProviderNonce;
use super::*;
use crate::dial::testing::TestCa;

fn logon() -> TokenLogon {
    let rules =
        LogonRules { host_names: vec!["desk-7".into()], provider_nonce: ProviderNonce::Signed };
    // Nobody answers there.
    let identity = Identity { issuer: Some("https://localhost:1".into()), ..Identity::default() };
    TokenLogon::new(&identity, TlsSettings::default(), rules).unwrap()
}

/// MS-RDPBCGR 2.2.1.1.
fn request(protocols: u8) -> Vec<u8> {
    vec![3, 0, 0, 19, 14, 0xe0, 0, 0, 0, 0, 0, 1, 0, 8, 0, protocols, 0, 0, 0]
}

async fn greet(ca: &TestCa, server: DuplexStream) -> Result<Entrance<DuplexStream>, NoEntry> {
    let tls = TlsAcceptor::from(Arc::new(ca.server()));
    logon().greet(server, &tls, |_| true).await
}

/// A client that was told to go on with RDSAAD and has heard the nonce.
async fn asked(ca: &TestCa, mut client: DuplexStream) -> (ClientTls<DuplexStream>, String) {
    client.write_all(&request(0x10)).await.unwrap();
    let mut confirm = [0; 19];
    client.read_exact(&mut confirm).await.unwrap();
    assert_eq!(confirm[11..], [2, 1, 8, 0, 0x10, 0, 0, 0]);
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = TlsConnector::from(Arc::new(ca.client())).connect(name, client).await.unwrap();
    let nonce = heard(&mut client).await;
    let nonce = nonce.strip_prefix("{\"ts_nonce\":\"").unwrap().strip_suffix("\"}").unwrap();
    let nonce = nonce.to_owned();
    (client, nonce)
}

async fn heard(client: &mut ClientTls<DuplexStream>) -> String {
    let mut text = Vec::new();
    loop {
        match client.read_u8().await.unwrap() {
            0 => return String::from_utf8(text).unwrap(),
            byte => text.push(byte),
        }
    }
}

#[tokio::test]
async fn every_connection_has_a_nonce_of_its_own_and_a_refusal_is_said() {
    crate::tls::install_provider();
    let ca = TestCa::new();
    let mut nonces = Vec::new();
    for (answer, result) in [
        ("{}\0".to_owned(), LogonResult::INVALID_TOKEN),
        ("x".repeat(10), LogonResult::INVALID_TOKEN),
        ("{".repeat(TEXT_BYTES_MAX), LogonResult::INVALID_TOKEN),
    ] {
        let (client, server) = duplex(64 * 1024);
        let visit = async {
            let (mut client, nonce) = asked(&ca, client).await;
            client.write_all(answer.as_bytes()).await.unwrap();
            let said = heard(&mut client).await;
            assert_eq!(said, format!("{{\"authentication_result\":{}}}", result.0));
            // And nothing comes after it.
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            nonce
        };
        let (entrance, nonce) = tokio::join!(greet(&ca, server), visit);
        assert!(matches!(entrance, Err(NoEntry::Refused(_))), "{entrance:?}");
        assert_eq!(nonce.len(), 43);
        nonces.push(nonce);
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 3);
}

#[tokio::test]
async fn while_the_provider_is_away_the_client_hears_that() {
    crate::tls::install_provider();
    let ca = TestCa::new();
    let (client, server) = duplex(64 * 1024);
    let visit = async {
        let (mut client, nonce) = asked(&ca, client).await;
        let (provider, key) = (testing::Provider::new(), testing::ClientKey::new());
        let right = testing::Logon::right(&provider, &key, "ann", "desk-7");
        client.write_all(&key.text(&testing::Logon { nonce, ..right })).await.unwrap();
        heard(&mut client).await
    };
    let (entrance, said) = tokio::join!(greet(&ca, server), visit);
    let Err(NoEntry::Refused(refusal)) = entrance else { panic!("{entrance:?}") };
    assert_eq!(refusal.code, Code::IdentityUnavailable);
    let result = LogonResult::NO_LOGON_SERVERS.0;
    assert_eq!(said, format!("{{\"authentication_result\":{result}}}"));
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_not_waited_for() {
    crate::tls::install_provider();
    let ca = TestCa::new();
    // Less than an answer fits in.
    let (client, server) = duplex(32);
    let mut logon = logon();
    logon.patience.greeting = Duration::from_millis(500);
    let tls = TlsAcceptor::from(Arc::new(ca.server()));
    let visit = async {
        let (mut client, _) = asked(&ca, client).await;
        client.write_all(b"x").await.unwrap();
        client.flush().await.unwrap();
        client
    };
    let (entrance, _still_there) = tokio::join!(logon.greet(server, &tls, |_| true), visit);
    assert!(matches!(entrance, Err(NoEntry::TooSlow("its answer"))), "{entrance:?}");
}

#[tokio::test]
async fn who_offers_no_token_is_left_to_the_rdp_server() {
    let ca = TestCa::new();
    for sent in [request(3), b"SSH-2.0\r\n".to_vec(), [request(0x10), b"more".to_vec()].concat()] {
        let (mut client, server) = duplex(4_096);
        client.write_all(&sent).await.unwrap();
        let entrance = greet(&ca, server).await.unwrap();
        let Entrance::Other(mut stream) = entrance else { panic!("{entrance:?}") };
        let mut got = vec![0; sent.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, sent);
        stream.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }
}

#[tokio::test]
async fn a_server_negotiates_with_nobody_and_then_hears_the_client() {
    let (mut client, server) = duplex(4_096);
    let mut stream = Negotiated::negotiating(server, request(0x10));
    client.write_all(b"next").await.unwrap();
    let mut got = [0; 23];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got[..], [&request(0x10)[..], b"next"].concat());
    // The end of its answer and the beginning of what it says then, in one.
    stream.write_all(&[0; 10]).await.unwrap();
    stream.write_all(b"123456789rest").await.unwrap();
    let mut got = [0; 4];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"rest");
}
