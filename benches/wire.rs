//! What a gateway reads of strangers, and what our own ends read of it.

use divan::Bencher;
use divan::counter::BytesCount;
use ringway::wire::http_head::{self, RequestHead};
use ringway::wire::relay_answer;

/// A leg's request, with a ticket of the usual length.
fn relay_request() -> Vec<u8> {
    let ticket = "rw1.0123456789abcdef.".to_owned() + &"A".repeat(400);
    format!(
        "GET /relay/client HTTP/1.1\r\nHost: gw-1.example.com:443\r\nConnection: Upgrade\r\n\
         Upgrade: {}\r\nRingway-Ticket: {ticket}\r\n\r\n",
        relay_answer::PROTOCOL
    )
    .into_bytes()
}

#[divan::bench]
fn parse_request_head(bencher: Bencher) {
    let request = relay_request();
    bencher
        .counter(BytesCount::new(request.len()))
        .bench_local(|| RequestHead::parse(divan::black_box(&request), 32 * 1024).unwrap());
}

#[divan::bench]
fn parse_relay_answer(bencher: Bencher) {
    let answer = http_head::switching_protocols(relay_answer::PROTOCOL);
    bencher
        .counter(BytesCount::new(answer.len()))
        .bench_local(|| relay_answer::parse(divan::black_box(&answer)).unwrap());
}
