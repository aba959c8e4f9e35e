//! What is decided for every session: who may come in, where to, and with whom.

use std::net::{IpAddr, Ipv4Addr};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use divan::Bencher;
use divan::counter::ItemsCount;
use ringway::config::gateway::GatewayLimits;
use ringway::core::clock::UnixMillis;
use ringway::core::ids::{GatewayId, SessionId};
use ringway::core::pairing::{PairingLimits, PairingTable};
use ringway::core::selection::{Load, settle};
use ringway::core::tickets::{Claims, Role, TicketSigner, TicketVerifier, UsedTickets};
use ringway::gateway::control::table::{ClientView, GatewayTable, TableRules};
use ringway::wire::arm::{RttSample, SAMPLES_MAX};
use ringway::wire::channel::GatewayEntry;

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

/// As a gateway has them: told by the broker, each probed.
fn gateways() -> GatewayTable {
    let entries: Vec<GatewayEntry> = (0..GATEWAYS)
        .map(|number| GatewayEntry {
            gateway: format!("gw-{number}").parse().unwrap(),
            url: format!("https://gw-{number}.example.com:443"),
            connections: number * 31 % 900,
            in_flight: number % 3,
            capacity: 1_000,
            draining: number % 50 == 0,
            age_ms: 0,
        })
        .collect();
    let names: Vec<GatewayId> = entries.iter().map(|entry| entry.gateway.clone()).collect();
    let own = "gw-1".parse().unwrap();
    let mut table = GatewayTable::new(own, TableRules::from(&GatewayLimits::default()));
    table.replace(entries);
    for (name, number) in names.into_iter().zip(0_u64..) {
        table.record_probe(name, Some(number * 7_919 % 200_000), 0);
    }
    table
}

/// The whole of a choice, with the record of why: what a client waits for.
#[divan::bench]
fn selection_among_10_000_gateways(bencher: Bencher) {
    let table = gateways();
    let mut number = 0;
    bencher.counter(ItemsCount::new(GATEWAYS)).bench_local(|| {
        number += 1;
        let client = ClientView { rtt_us: Some(700), ..ClientView::default() };
        let selection = table.select(divan::black_box(client), session(number), 1_000);
        table.explain(&selection)
    });
}

/// The same for a client that measured as many as are looked at.
#[divan::bench]
fn selection_among_10_000_gateways_of_a_client_that_measured(bencher: Bencher) {
    let table = gateways();
    let sample = |number: usize| RttSample {
        gateway: format!("gw-{}", number * 37).parse().unwrap(),
        rtt_us: 9_000,
        age_ms: 0,
    };
    let samples: Vec<RttSample> = (0..SAMPLES_MAX).map(sample).collect();
    let mut number = 0;
    bencher.counter(ItemsCount::new(GATEWAYS)).bench_local(|| {
        number += 1;
        let client = ClientView { samples: &samples, ..ClientView::default() };
        let selection = table.select(divan::black_box(client), session(number), 1_000);
        table.explain(&selection)
    });
}

/// The broker's part of it.
#[divan::bench]
fn selection_settled_by_the_broker(bencher: Bencher) {
    let table = gateways();
    let proposal = table.explain(&table.select(ClientView::default(), session(1), 1_000));
    let load = |_: &GatewayId| {
        Some(Load { connections: 700, in_flight: 1, capacity: 1_000, draining: false })
    };
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        settle(divan::black_box(&proposal), load, session(number), None)
    });
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
        table.take(&session(number)).unwrap();
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
