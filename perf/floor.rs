//! The floor: what relaying a byte between two TLS legs costs at least on this
//! machine. One AEAD open and one seal per 16 KiB record, plus the plainest loop
//! that receives up to 256 KiB from one TCP connection and sends it to another.
//!
//! Both are measured apart and added. The loop has a generator of its own, which
//! neither encrypts nor looks at the bytes: one that did would be slower than
//! the loop, hand it smaller pieces, and make the floor look higher than it is.

use std::fs;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use clap::Parser;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

/// What one full TLS record carries.
const RECORD_LEN: usize = 16 * 1024;
const TAG_LEN: usize = 16;
/// Type, version and length of a record are authenticated with it.
const HEADER: [u8; 5] = [23, 3, 3, 64, 17];
/// As large as Ringway's own receives get.
const BUFFER_LEN: usize = 256 * 1024;
/// Records between two looks at the clock.
const BATCH: u32 = 256;
/// Until the sockets have found their window.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(Debug, Parser)]
#[command(about = "What relaying a GB between two TLS legs costs at least, as JSON")]
struct Args {
    /// How long each of the two parts is measured
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Where the measured thread runs
    #[arg(long, default_value_t = 0)]
    relay_core: usize,
    /// Where the loop's generator runs
    #[arg(long, default_value_t = 1)]
    core: usize,
    #[arg(long, value_enum, default_value_t = Cipher::Aes128)]
    cipher: Cipher,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Cipher {
    Aes128,
    Aes256,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let time = Duration::try_from_secs_f64(args.seconds)?;
    let (cipher, core) = (args.cipher, args.relay_core);
    // On threads of their own: a pinned thread stays pinned.
    let aead = thread::spawn(move || aead_cpu_s_per_gb(cipher, time, core));
    let aead = aead.join().map_err(|_| anyhow!("the AEAD thread panicked"))??;
    let copy = loop_cpu_s_per_gb(time, args.relay_core, args.core)?;
    println!(
        "{}",
        serde_json::json!({
            "bench": "floor",
            "aead_cpu_s_per_gb": aead,
            "loop_cpu_s_per_gb": copy,
            "cpu_s_per_gb": aead + copy,
        })
    );
    Ok(())
}

/// Opens a record into another buffer and seals it there, again and again: the
/// two passes over the bytes that no relay between two TLS legs can avoid.
fn aead_cpu_s_per_gb(cipher: Cipher, time: Duration, core: usize) -> anyhow::Result<f64> {
    pin(core)?;
    let key = |byte: u8| {
        let key = match cipher {
            Cipher::Aes128 => UnboundKey::new(&AES_128_GCM, &[byte; 16]),
            Cipher::Aes256 => UnboundKey::new(&AES_256_GCM, &[byte; 32]),
        };
        key.map(LessSafeKey::new).map_err(|_| anyhow!("the key has a wrong length"))
    };
    let (inbound, outbound) = (key(1)?, key(2)?);
    // The nonce never changes: the key protects nothing, and counting up is free.
    let nonce = || Nonce::assume_unique_for_key([7; 12]);
    let failed = |_| anyhow!("AEAD failed");

    let mut sealed = vec![0x5a; RECORD_LEN];
    let tag = inbound
        .seal_in_place_separate_tag(nonce(), Aad::from(HEADER), &mut sealed)
        .map_err(failed)?;
    sealed.extend_from_slice(tag.as_ref());
    let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_LEN);
    let mut out = vec![0; RECORD_LEN];

    let cpu_before = cpu_ns(gettid().as_raw_pid())?;
    let begun = Instant::now();
    let mut records = 0_u32;
    while begun.elapsed() < time {
        for _ in 0..BATCH {
            inbound
                .open_separate_gather(nonce(), Aad::from(HEADER), ciphertext, tag, &mut out)
                .map_err(failed)?;
            let tag = outbound
                .seal_in_place_separate_tag(nonce(), Aad::from(HEADER), &mut out)
                .map_err(failed)?;
            let _ = black_box(tag);
        }
        records += BATCH;
    }
    let cpu = cpu_ns(gettid().as_raw_pid())? - cpu_before;
    per_gb(cpu, u64::from(records) * RECORD_LEN as u64)
}

/// One connection in, one out, and a thread between them that does nothing else.
fn loop_cpu_s_per_gb(time: Duration, relay_core: usize, core: usize) -> anyhow::Result<f64> {
    let (mut source, mut inbound) = connection()?;
    let (mut outbound, mut sink) = connection()?;
    let relayed = Arc::new(AtomicU64::new(0));

    thread::spawn(move || -> anyhow::Result<()> {
        pin(core)?;
        let bytes = vec![0x5a; BUFFER_LEN];
        loop {
            source.write_all(&bytes)?;
        }
    });
    thread::spawn(move || -> anyhow::Result<()> {
        pin(core)?;
        let mut buffer = vec![0; BUFFER_LEN];
        while sink.read(&mut buffer)? > 0 {}
        Ok(())
    });
    let (id_in, id) = mpsc::channel();
    let count = Arc::clone(&relayed);
    thread::spawn(move || -> anyhow::Result<()> {
        pin(relay_core)?;
        id_in.send(gettid().as_raw_pid())?;
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            let length = inbound.read(&mut buffer)?;
            let Some(received @ [_, ..]) = buffer.get(..length) else { return Ok(()) };
            outbound.write_all(received)?;
            count.fetch_add(received.len() as u64, Ordering::Relaxed);
        }
    });

    let relay = id.recv().context("the relaying thread did not start")?;
    thread::sleep(WARM_UP);
    let (cpu_before, bytes_before) = (cpu_ns(relay)?, relayed.load(Ordering::Relaxed));
    thread::sleep(time);
    let (cpu, bytes) = (cpu_ns(relay)?, relayed.load(Ordering::Relaxed));
    // The threads end with the process.
    per_gb(cpu - cpu_before, bytes - bytes_before)
}

/// Both ends of a connection over loopback.
fn connection() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
    }
    Ok((near, far))
}

fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores)
        .with_context(|| format!("cannot run on core {core}: has this machine so many?"))
}

/// What a thread of this process has used: nanoseconds on a core.
fn cpu_ns(thread: i32) -> anyhow::Result<u64> {
    let path = format!("/proc/self/task/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).context("no time in schedstat")
}

fn per_gb(cpu_ns: u64, bytes: u64) -> anyhow::Result<f64> {
    anyhow::ensure!(bytes > 0, "nothing was relayed");
    // Nanoseconds per byte are seconds per 10^9 bytes.
    Ok(cpu_ns as f64 / bytes as f64)
}
