//! Half-close, truncation and limits of a pipe.

use std::future::{pending, ready};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;
use crate::core::tickets::Role;
use crate::dial::relay::open_leg;
use crate::dial::testing::{TestCa, TestServer, read_head};

const SWITCHED: &[u8] = b"HTTP/1.1 101 x\r\nUpgrade: ringway-relay\r\n\r\n";

/// Never times out on a loaded machine, unless a test wants that.
fn limits() -> PipeLimits {
    PipeLimits { buffer_bytes: 1_000, half_closed_idle_ms: 20_000 }
}

#[tokio::test]
async fn each_direction_closes_on_its_own() {
    let (mut client, a) = duplex(100);
    let (b, mut host) = duplex(100);
    let piped = tokio::spawn(pipe(a, b, limits(), pending()));

    client.write_all(b"request").await.unwrap();
    client.shutdown().await.unwrap();
    let mut seen = Vec::new();
    host.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"request");

    // The client said that it is done; the host still answers at length.
    let answer: Vec<u8> = (0..10_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (sent, received) = tokio::join!(
        async {
            host.write_all(&answer).await.unwrap();
            host.shutdown().await.unwrap();
        },
        async {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            received
        }
    );
    let () = sent;
    assert_eq!(received, answer);
    let report = piped.await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.bytes_a_to_b, report.bytes_b_to_a), (7, 10_000));
}

#[tokio::test]
async fn a_half_closed_pipe_that_carries_nothing_ends() {
    let (mut client, a) = duplex(100);
    let (b, _host_that_never_answers) = duplex(100);
    let limits = PipeLimits { half_closed_idle_ms: 20, ..limits() };
    client.shutdown().await.unwrap();
    let report = pipe(a, b, limits, pending()).await;
    assert_eq!((report.a_to_b, report.b_to_a), (HalfEnd::Clean, HalfEnd::HalfClosedIdle));
}

#[tokio::test]
async fn a_stop_ends_both_and_tells_both() {
    let (mut client, a) = duplex(100);
    let (b, mut host) = duplex(100);
    let report = pipe(a, b, limits(), ready(())).await;
    assert_eq!((report.a_to_b, report.b_to_a), (HalfEnd::Stopped, HalfEnd::Stopped));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(host.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_destination_that_is_gone_ends_both() {
    let (mut client, a) = duplex(100);
    let (b, host) = duplex(100);
    drop(host);
    client.write_all(b"x").await.unwrap();
    let report = pipe(a, b, limits(), pending()).await;
    assert!(!report.is_clean(), "{report:?}");
}

/// A gateway that sends three bytes and then ends as told.
async fn leg_that_ends(ca: &TestCa, with_close_notify: bool) -> PipeReport {
    let gateway = TestServer::start(ca.server(), move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(SWITCHED).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        if with_close_notify {
            stream.shutdown().await.unwrap();
            let _until_the_end = stream.read_to_end(&mut Vec::new()).await;
        } else {
            stream.flush().await.unwrap();
            // Closing only the TCP socket is what a crash looks like; the
            // rest is read so that the kernel sends FIN and not RST.
            let (mut tcp, _tls) = stream.into_inner();
            tcp.shutdown().await.unwrap();
            let _until_the_end = tcp.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let leg = open_leg(&ca.dialer(), &gateway.url(), Role::Client, "t").await.unwrap();
    let (mut client, local) = duplex(100);
    let both = async {
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"abc");
        client.shutdown().await.unwrap();
    };
    let (report, ()) = tokio::join!(pipe(local, leg, limits(), pending()), both);
    report
}

#[tokio::test]
async fn a_leg_that_says_goodbye_is_told_from_one_that_is_cut_off() {
    let ca = TestCa::new();
    let clean = leg_that_ends(&ca, true).await;
    assert!(clean.is_clean(), "{clean:?}");
    assert_eq!(clean.bytes_b_to_a, 3);
    let cut_off = leg_that_ends(&ca, false).await;
    assert_eq!(cut_off.b_to_a, HalfEnd::Truncated);
    assert_eq!(cut_off.bytes_b_to_a, 3);
}
