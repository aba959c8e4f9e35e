//! The floor: what relaying a byte between two TLS legs costs at least on this
//! machine. One AEAD open and one seal per 16 KiB record, by AWS-LC or by ring,
//! whichever is cheaper, plus the plainest loop that receives up to 256 KiB from
//! one TCP connection and sends it to another.
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
use aws_lc_rs::aead as aws;
use clap::Parser;
use ring::aead as other;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

/// What one full TLS record carries.
const RECORD_LEN: usize = 16 * 1024;
/// Type, version and length of a record are authenticated with it.
const HEADER: [u8; 5] = [23, 3, 3, 64, 17];
/// As large as Ringway's own receives get.
const BUFFER_LEN: usize = 256 * 1024;
/// Buffers begin with a page, as the kernel's do. Where a target lies a few bytes
/// further into its page than the source, AMD Zen 3 copies (`rep movsb`) thirty
/// times slower, and the allocator's large blocks lie just so.
const PAGE_LEN: usize = 4096;
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
    let on_its_core = |measure: fn(Cipher, Duration, usize) -> anyhow::Result<f64>| {
        let thread = thread::spawn(move || measure(cipher, time / 2, core));
        thread.join().map_err(|_| anyhow!("an AEAD thread panicked"))?
    };
    let (of_aws, of_ring) = (on_its_core(aws_cpu_s_per_gb)?, on_its_core(ring_cpu_s_per_gb)?);
    let aead = of_aws.min(of_ring);
    let copy = loop_cpu_s_per_gb(time, args.relay_core, args.core)?;
    println!(
        "{}",
        serde_json::json!({
            "bench": "floor",
            "aead_cpu_s_per_gb": aead,
            "aead_aws_lc_cpu_s_per_gb": of_aws,
            "aead_ring_cpu_s_per_gb": of_ring,
            "loop_cpu_s_per_gb": copy,
            "cpu_s_per_gb": aead + copy,
        })
    );
    Ok(())
}

/// Opens a record into another buffer and seals it there, again and again: the
/// two passes over the bytes that no relay between two TLS legs can avoid.
fn aws_cpu_s_per_gb(cipher: Cipher, time: Duration, core: usize) -> anyhow::Result<f64> {
    let key = |byte: u8| {
        let key = match cipher {
            Cipher::Aes128 => aws::UnboundKey::new(&aws::AES_128_GCM, &[byte; 16]),
            Cipher::Aes256 => aws::UnboundKey::new(&aws::AES_256_GCM, &[byte; 32]),
        };
        key.map(aws::LessSafeKey::new).map_err(|_| anyhow!("the key has a wrong length"))
    };
    let (inbound, outbound) = (key(1)?, key(2)?);
    // The nonce never changes: the key protects nothing, and counting up is free.
    let nonce = || aws::Nonce::assume_unique_for_key([7; 12]);
    let aad = || aws::Aad::from(HEADER);
    let failed = |_| anyhow!("AEAD failed");

    let mut ciphertext = vec![0x5a; RECORD_LEN];
    let tag =
        inbound.seal_in_place_separate_tag(nonce(), aad(), &mut ciphertext).map_err(failed)?;
    let mut out = vec![0; RECORD_LEN];
    records_cpu_s_per_gb(time, core, || {
        inbound
            .open_separate_gather(nonce(), aad(), &ciphertext, tag.as_ref(), &mut out)
            .map_err(failed)?;
        let tag = outbound.seal_in_place_separate_tag(nonce(), aad(), &mut out).map_err(failed)?;
        let _ = black_box(tag);
        Ok(())
    })
}

/// The same by ring, which opens within one buffer only: from its second half to
/// the first.
fn ring_cpu_s_per_gb(cipher: Cipher, time: Duration, core: usize) -> anyhow::Result<f64> {
    let key = |byte: u8| {
        let key = match cipher {
            Cipher::Aes128 => other::UnboundKey::new(&other::AES_128_GCM, &[byte; 16]),
            Cipher::Aes256 => other::UnboundKey::new(&other::AES_256_GCM, &[byte; 32]),
        };
        key.map(other::LessSafeKey::new).map_err(|_| anyhow!("the key has a wrong length"))
    };
    let (inbound, outbound) = (key(1)?, key(2)?);
    let nonce = || other::Nonce::assume_unique_for_key([7; 12]);
    let aad = || other::Aad::from(HEADER);
    let failed = |_| anyhow!("AEAD failed");

    let mut both = vec![0x5a; 2 * RECORD_LEN];
    let (_, ciphertext) = both.split_at_mut(RECORD_LEN);
    let tag = inbound.seal_in_place_separate_tag(nonce(), aad(), ciphertext).map_err(failed)?;
    records_cpu_s_per_gb(time, core, || {
        let out = inbound
            .open_in_place_separate_tag(nonce(), aad(), tag, &mut both, RECORD_LEN..)
            .map_err(failed)?;
        let tag = outbound.seal_in_place_separate_tag(nonce(), aad(), out).map_err(failed)?;
        black_box(tag.as_ref());
        Ok(())
    })
}

fn records_cpu_s_per_gb(
    time: Duration,
    core: usize,
    mut relay_record: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    pin(core)?;
    let cpu_before = cpu_ns(gettid().as_raw_pid())?;
    let begun = Instant::now();
    let mut records = 0_u32;
    while begun.elapsed() < time {
        for _ in 0..BATCH {
            relay_record()?;
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
        let mut memory = vec![0x5a; BUFFER_LEN + PAGE_LEN];
        let bytes = page_aligned(&mut memory)?;
        loop {
            source.write_all(bytes)?;
        }
    });
    thread::spawn(move || -> anyhow::Result<()> {
        pin(core)?;
        let mut memory = vec![0; BUFFER_LEN + PAGE_LEN];
        let buffer = page_aligned(&mut memory)?;
        while sink.read(buffer)? > 0 {}
        Ok(())
    });
    let (id_in, id) = mpsc::channel();
    let count = Arc::clone(&relayed);
    thread::spawn(move || -> anyhow::Result<()> {
        pin(relay_core)?;
        id_in.send(gettid().as_raw_pid())?;
        let mut memory = vec![0; BUFFER_LEN + PAGE_LEN];
        let buffer = page_aligned(&mut memory)?;
        loop {
            let length = inbound.read(buffer)?;
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

fn page_aligned(memory: &mut [u8]) -> anyhow::Result<&mut [u8]> {
    let start = memory.as_ptr().align_offset(PAGE_LEN);
    memory.get_mut(start..start + BUFFER_LEN).context("no whole page in a buffer")
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
