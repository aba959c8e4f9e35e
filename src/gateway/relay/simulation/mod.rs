//! A seeded simulation of one worker: real record layers, real sessions, a
//! model kernel and peers that misbehave. No byte may be lost, doubled or
//! changed, no buffer may leak, and every session ends with one reason.
//!
//! `RINGWAY_SIM_SEED=n` runs one seed, `RINGWAY_SIM_SEEDS=n` that many.

mod dress;
mod kernel;
mod peer;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use self::dress::Dress;
use self::kernel::{SimKernel, SimSocket};
use self::peer::{Ending, Line, Peer};
use super::engine::Relay;
use super::framing::{Deframer, Framer};
use super::ring::{Arena, RingSettings};
use super::session::{Leg, Session, SessionCounters};
use super::{Event, WithinSettings, WorkerSettings, WorkerStats};
use crate::config::gateway::GatewayLimits;
use crate::core::ids::SessionId;
use crate::core::random::Random;
use crate::observe::close_reason::CloseReason;
use crate::tls::handshake::{ClientHandshake, EstablishedTls, ServerHandshake};
use crate::tls::settings::{MinimumVersion, TlsSettings};

/// Seeds of a normal run.
const SEEDS: u64 = 2_000;
/// A run that takes longer makes no progress.
const STEPS_MAX: u64 = 2_000_000;

/// The refusal that a client gets before its host has said a word.
const POISON_MAX: usize = 64;

/// Longer than any peer stalls.
const IDLE_STEPS_MAX: u64 = 3_000;

/// The two peers of one session, client first.
struct Pair {
    id: SessionId,
    peers: [Peer; 2],
}

struct World {
    random: Random,
    relay: Relay<SimKernel>,
    pairs: Vec<Pair>,
    closed: HashMap<SessionId, CloseReason>,
    step: u64,
    idle_steps: u64,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let buffers = 1 << random.below(4);
        let bound_bytes = random.chance(50).then(|| random.spread(1, 100_000));
        let kernel = SimKernel::new(buffers, random.spread(40, 40_000), bound_bytes);
        let limits = GatewayLimits {
            leg_output_bytes_max: random.spread(1_024, 64 * 1024),
            drain_output_ms: 5_000,
            half_close_timeout_ms: 60_000,
            ..GatewayLimits::default()
        };
        let settings = WorkerSettings {
            index: 0,
            core: None,
            ring: RingSettings {
                rx_buffers: u16::try_from(buffers).unwrap(),
                ..RingSettings::default()
            },
            output_slots: random.below(5),
            within: WithinSettings {
                bytes_min: random.below(2_000),
                queued_bytes_min: random.below(20_000),
                lead_bytes: random.below(200),
            },
            limits,
        };
        let arena = Arena::new(settings.output_slots).unwrap();
        let relay = Relay::new(kernel, arena, settings, Arc::new(WorkerStats::default()));
        let mut world = Self {
            random,
            relay,
            pairs: Vec::new(),
            closed: HashMap::new(),
            step: 0,
            idle_steps: 0,
            seed,
        };
        for number in 0..1 + world.random.below(3) {
            world.start_session(number);
        }
        world
    }

    fn start_session(&mut self, number: usize) {
        let id = SessionId([u8::try_from(number).unwrap(); 16]);
        let counters = Arc::new(SessionCounters::default());
        let mut ends = [0, 1].map(|side| {
            let dress = if side == 0 { Dress::any(&mut self.random) } else { Dress::Raw };
            let (mut leg, line) = self.connection();
            leg.framer = dress.framer();
            let mut sending = None;
            if dress == Dress::TsguChannels {
                let (mut inbound, line) = self.connection();
                inbound.deframer = dress.deframer();
                inbound.framer = Framer::Silent;
                leg.deframer = Deframer::Silent;
                leg.inbound = Some(Box::new(inbound));
                sending = Some(line);
            } else {
                leg.deframer = dress.deframer();
            }
            let ending = match self.random.below(10) {
                0 => Ending::Cut,
                1 => Ending::Reset,
                2 => Ending::Forge,
                3 if dress != Dress::Raw => Ending::Garble,
                _ => Ending::Clean,
            };
            let to_send = if self.random.chance(20) { 0 } else { self.random.spread(1, 300_000) };
            let stream = self.seed.wrapping_mul(64) + (number * 2 + side) as u64 + 1;
            let mut peer = Peer::new(line, sending, dress, stream, to_send, ending);
            if self.random.chance(20) {
                peer.stalled_until = self.random.next() % 2_000;
            }
            Some((leg, peer))
        });
        let (client, client_peer) = ends[0].take().unwrap();
        let (host, host_peer) = ends[1].take().unwrap();
        self.relay.stats.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.relay.start(Session { id, host_id: "h".parse().unwrap(), client, host, counters });
        self.pairs.push(Pair { id, peers: [client_peer, host_peer] });
    }

    fn connection(&mut self) -> (Leg<SimSocket>, Line) {
        let (near, far) = handshake(&mut self.random);
        let socket = self.relay.kernel.connect();
        let line = Line { records: far.records, wire: socket.0 };
        let leg = Leg {
            socket,
            peer: "127.0.0.1:1".parse().unwrap(),
            records: near.records,
            early_ciphertext: near.leftover_ciphertext,
            early_plaintext: near.leftover_plaintext,
            deframer: Deframer::Raw,
            framer: Framer::Raw,
            inbound: None,
        };
        (leg, line)
    }

    fn run(&mut self) {
        while !self.relay.sessions.is_empty() {
            self.step += 1;
            assert!(self.step < STEPS_MAX, "no end in sight");
            let mut progress = false;
            for _ in 0..1 + self.random.below(6) {
                progress |= self.peers_act();
            }
            // One turn of the worker: what completed meanwhile, buffers and all
            // still out, and then its end.
            let most = self.random.below(12);
            let batch: Vec<_> =
                std::iter::from_fn(|| self.relay.kernel.complete_one(&mut self.random))
                    .take(most)
                    .collect();
            progress |= !batch.is_empty();
            for completion in batch {
                self.relay.on_completion(completion);
            }
            self.relay.now_us += 50;
            self.idle_steps = if progress { 0 } else { self.idle_steps + 1 };
            if self.idle_steps > IDLE_STEPS_MAX {
                // Everybody waits, those who stalled too: only a clock can
                // move things.
                self.relay.now_us += 250_000;
                self.relay.check_deadlines();
            }
            self.relay.end_turn();
            self.check_bounds();
            self.collect_events();
        }
        for _ in 0..10_000 {
            if !self.peers_read() {
                break;
            }
        }
    }

    fn peers_act(&mut self) -> bool {
        let which = self.random.below(self.pairs.len());
        let side = self.random.below(2);
        let [client, host] = &mut self.pairs[which].peers;
        let (peer, other) = if side == 0 { (client, host) } else { (host, client) };
        let other = (other.stream(), other.sent);
        let kernel = &mut self.relay.kernel;
        let acted = self.random.chance(50) && peer.act(kernel, &mut self.random);
        peer.read(kernel, other, self.step, &mut self.random) || acted
    }

    fn peers_read(&mut self) -> bool {
        let mut any = false;
        let kernel = &mut self.relay.kernel;
        for Pair { peers: [client, host], .. } in &mut self.pairs {
            let (up, down) = ((client.stream(), client.sent), (host.stream(), host.sent));
            any |= client.read(kernel, down, u64::MAX, &mut self.random);
            any |= host.read(kernel, up, u64::MAX, &mut self.random);
        }
        any
    }

    /// Backpressure: what is queued for a leg is bounded by its cap and what
    /// the kernel had received before the gate closed.
    fn check_bounds(&self) {
        let cap = self.relay.settings.limits.leg_output_bytes_max;
        // A record of few bytes may grow several times over.
        let bound = cap + 16 * self.relay.kernel.overshoot_bytes() + 64 * 1024;
        assert_eq!(self.relay.index_of.len(), self.relay.sessions.len());
        for (_, session) in &self.relay.sessions {
            for leg in [Some(&session.client), Some(&session.host), session.inbound.as_deref()] {
                let queued = leg.map_or(0, |leg| leg.output_bytes);
                assert!(queued <= bound, "{queued} bytes queued");
            }
        }
    }

    fn collect_events(&mut self) {
        while let Some(event) = self.relay.events.pop_front() {
            if let Event::Closed(closed) = event {
                if std::env::var_os("RINGWAY_SIM_SEED").is_some() {
                    eprintln!("{}: {} {:?}", closed.id, closed.reason, closed.detail);
                }
                let first = self.closed.insert(closed.id, closed.reason);
                assert_eq!(first, None, "a session ended twice");
            }
        }
    }

    fn judge(&self) {
        self.relay.kernel.assert_at_rest();
        assert_eq!(
            self.relay.arena.free_slots(),
            self.relay.arena.total_slots(),
            "output slots leaked"
        );
        for pair in &self.pairs {
            let reason = self.closed.get(&pair.id).copied().expect("a session left no record");
            let [client, host] = &pair.peers;
            for (from, to) in [(client, host), (host, client)] {
                assert!(to.got <= from.sent, "more arrived than was sent");
                assert!(to.got_poison <= POISON_MAX, "{} bytes of farewell", to.got_poison);
                // A client with a framing is told of every end.
                if to.got_close && !to.got_alert && to.dress() == Dress::Raw {
                    assert_eq!(to.got, from.sent, "a clean end hides a loss");
                }
            }
            let is = |peer: &Peer, ending| assert_eq!(peer.ending, ending, "{reason}");
            match reason {
                CloseReason::ClientClosed if client.dress() != Dress::Raw => {
                    is(client, Ending::Clean);
                    // A host that reset in the meantime cannot have heard.
                    let heard = host.got_close && host.got == client.sent;
                    assert!(heard || host.ending == Ending::Reset, "{host:?} {client:?}");
                }
                CloseReason::ClientClosed | CloseReason::HostClosed => {
                    for (from, to) in [(client, host), (host, client)] {
                        is(from, Ending::Clean);
                        let heard = to.was_told() && to.got == from.sent;
                        // A peer that reset cannot have heard anything.
                        assert!(heard, "{reason}: {to:?} did not hear all of {from:?}");
                    }
                }
                CloseReason::ClientTruncated => is(client, Ending::Cut),
                CloseReason::HostTruncated => is(host, Ending::Cut),
                CloseReason::ClientReset => is(client, Ending::Reset),
                CloseReason::HostReset => is(host, Ending::Reset),
                CloseReason::ClientTlsError => is(client, Ending::Forge),
                CloseReason::HostTlsError => is(host, Ending::Forge),
                CloseReason::ClientFramingError => is(client, Ending::Garble),
                other => panic!("nothing here ends a session with {other}"),
            }
        }
    }
}

/// A finished handshake in memory: the gateway's end and the peer's.
fn handshake(random: &mut Random) -> (EstablishedTls, EstablishedTls) {
    let (server, clients) = configurations();
    let client = Arc::clone(&clients[random.below(clients.len())]);
    let mut near = ServerHandshake::new(Arc::clone(server)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut far = ClientHandshake::new(client, name).unwrap();
    for _ in 0..10 {
        near.feed(&far.take_outgoing()).unwrap();
        far.feed(&near.take_outgoing()).unwrap();
    }
    (near.into_keys().unwrap(), far.into_keys().unwrap())
}

/// One server, and a client per version and preference.
fn configurations() -> &'static (Arc<ServerConfig>, Vec<Arc<ClientConfig>>) {
    static CONFIGURATIONS: OnceLock<(Arc<ServerConfig>, Vec<Arc<ClientConfig>>)> = OnceLock::new();
    CONFIGURATIONS.get_or_init(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der: CertificateDer<'static> = certificate.der().clone();
        let settings = TlsSettings { chacha20: true, ..TlsSettings::default() };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = settings.server(vec![der.clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(der).unwrap();
        let tls13 = TlsSettings { minimum_version: MinimumVersion::Tls13, ..settings };
        let mut clients = vec![tls13.client(roots.clone()).unwrap()];
        let mut tls12 = ClientConfig::builder_with_provider(settings.provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls12.enable_secret_extraction = true;
        clients.push(tls12);
        let clients = clients.into_iter().map(|mut client| {
            client.enable_secret_extraction = true;
            Arc::new(client)
        });
        (Arc::new(server), clients.collect())
    })
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.run();
    world.judge();
}

#[test]
fn no_byte_is_lost_and_no_buffer_leaks_whatever_the_kernel_does() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("RINGWAY_SIM_SEED") {
        return run(seed);
    }
    let seeds = number("RINGWAY_SIM_SEEDS").unwrap_or(SEEDS);
    // Worlds know nothing of each other.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for first in (0..seeds).take(threads) {
            scope.spawn(move || {
                for seed in (first..seeds).step_by(threads) {
                    let outcome = std::panic::catch_unwind(|| run(seed));
                    let replay = "replay it with RINGWAY_SIM_SEED";
                    assert!(outcome.is_ok(), "seed {seed} failed; {replay}={seed}");
                }
            });
        }
    });
}
