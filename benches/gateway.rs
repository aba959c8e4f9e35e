//! The relay's memory and its way to the kernel.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use divan::Bencher;
use divan::counter::BytesCount;
use ringway::gateway::relay::ring::{Arena, Completion, Features, Ring, RingSettings, Token};

/// What one leg's turn takes from the arena and gives back.
#[divan::bench]
fn take_and_put_an_output_slot(bencher: Bencher) {
    let mut arena = Arena::new(256).unwrap();
    bencher.bench_local(|| {
        let slot = arena.take(16 * 1024);
        arena.put(divan::black_box(slot));
    });
}

/// All slots are with stalled readers.
#[divan::bench]
fn take_and_put_a_slot_of_an_empty_arena(bencher: Bencher) {
    let mut arena = Arena::new(0).unwrap();
    bencher.bench_local(|| {
        let slot = arena.take(16 * 1024);
        arena.put(divan::black_box(slot));
    });
}

const RINGS: [&str; 2] = ["probed", "linux-6.1"];

/// As fast as a sender on the other core goes; nothing is done with the bytes.
#[divan::bench(args = RINGS)]
fn receive_16_mib(bencher: Bencher, ring: &str) {
    const BYTES: usize = 16 * 1024 * 1024;
    let features = match ring {
        "probed" => Features::probe().unwrap(),
        _ => Features::LINUX_6_1,
    };
    let mut ring = Ring::new(RingSettings { features, ..RingSettings::default() }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    // Ends when the socket does.
    let sending = std::thread::spawn(move || while sender.write_all(&[7; 65_536]).is_ok() {});
    let token = Token::new(1, 1);
    ring.receive(socket.as_fd(), token);
    bencher.counter(BytesCount::new(BYTES)).bench_local(|| {
        let mut received = 0;
        while received < BYTES {
            ring.submit_and_wait(Duration::from_secs(1)).unwrap();
            ring.collect();
            while let Some(completion) = ring.next() {
                let rearm = match completion {
                    Completion::Received { bytes, armed, .. } => {
                        received += bytes.len();
                        ring.recycle(bytes);
                        !armed
                    }
                    Completion::ReceiveEnded { .. } => true,
                    Completion::Sent { .. } | Completion::Rung => false,
                };
                if rearm {
                    ring.receive(socket.as_fd(), token);
                }
            }
        }
    });
    drop(ring);
    drop(socket);
    sending.join().unwrap();
}
