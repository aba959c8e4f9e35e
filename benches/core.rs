//! What is decided for every session: who may come in, where to, and with whom.

use std::net::{IpAddr, Ipv4Addr};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use divan::Bencher;
use divan::counter::ItemsCount;
use ringway::core::clock::UnixMillis;
use ringway::core::ids::SessionId;
use ringway::core::pairing::{PairingLimits, PairingTable};
use ringway::core::selection::{Candidate, Rtt, RttSource, SelectionRules, select};
use ringway::core::tickets::{Claims, Role, TicketSigner, TicketVerifier, UsedTickets};

const GATEWAYS: u32 = 10_000;
const WAITING: u32 = 2_000;

fn session(number: u32) -> SessionId {
    SessionId(
        (u128::from(number) + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_le_bytes(),
    )
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

#[divan::bench]
fn select_among_10_000_gateways(bencher: Bencher) {
    let candidates: Vec<Candidate> = (0..GATEWAYS)
        .map(|number| Candidate {
            gateway: format!("gw-{number}").parse().unwrap(),
            url: format!("https://gw-{number}.example.com:443"),
            rtt: Some(Rtt {
                us: u64::from(number) * 7_919 % 200_000,
                age_ms: 1_000,
                source: RttSource::Probe,
            }),
            connections: number * 31 % 900,
            in_flight: number % 3,
            capacity: 1_000,
            draining: number % 50 == 0,
        })
        .collect();
    let rules = SelectionRules { sample_age_ms_max: 30_000 };
    bencher
        .counter(ItemsCount::new(GATEWAYS))
        .bench_local(|| select(divan::black_box(&candidates), session(1), rules).0.unwrap());
}

/// A client comes and its host follows, among many that wait.
#[divan::bench]
fn pair_among_2_000_that_wait(bencher: Bencher) {
    let limits = PairingLimits { waiting_max: 10_000, waiting_per_address_max: 256 };
    let mut table = PairingTable::new(limits);
    for number in 0..WAITING {
        table.wait(session(number), address(number), ()).unwrap();
    }
    let mut number = WAITING;
    bencher.bench_local(|| {
        number = number.wrapping_add(1).max(WAITING);
        table.wait(session(number), address(number % 100), ()).unwrap();
        table.take(session(number)).unwrap();
    });
}

fn claims(number: u32) -> Claims {
    let now = UnixMillis::now();
    Claims {
        id: session(number),
        session: session(number),
        gateway: "gw-1".parse().unwrap(),
        host: "host-1".parse().unwrap(),
        role: Role::Client,
        issued_at: now,
        expires_at: now.plus_ms(60_000),
    }
}

fn signer() -> TicketSigner {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    TicketSigner::from_pkcs8(document.as_ref()).unwrap()
}

#[divan::bench]
fn sign_ticket(bencher: Bencher) {
    let (signer, claims) = (signer(), claims(1));
    bencher.bench_local(|| signer.sign(divan::black_box(&claims)));
}

#[divan::bench]
fn verify_ticket(bencher: Bencher) {
    let (signer, claims) = (signer(), claims(1));
    let verifier = TicketVerifier::new(&[signer.published()]);
    let ticket = signer.sign(&claims);
    let (gateway, now) = (claims.gateway.clone(), claims.issued_at);
    bencher.bench_local(|| {
        verifier.verify(divan::black_box(&ticket), &gateway, Role::Client, now).unwrap()
    });
}

#[divan::bench]
fn remember_a_used_ticket(bencher: Bencher) {
    let mut used = UsedTickets::new(usize::MAX, UnixMillis::now());
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            claims(number)
        })
        .bench_local_refs(|claims| used.consume(claims, claims.issued_at).unwrap());
}
