//! The fuzz targets in every test run: the committed corpora, and a bounded
//! number of random changes to them. What guides a search by coverage is in
//! `tests/fuzz`; CONTRIBUTING.md says how to run it.
//!
//! `RINGWAY_FUZZ_RUNS` sets the number of changed inputs of the cheapest target
//! and `RINGWAY_FUZZ_SEED` repeats a run; a failure names both.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use targets::{ALL, Target};

const RUNS: u32 = 20_000;
const CHANGES_MAX: u64 = 8;
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// All corpora together, so that a checkout stays small.
const CORPORA_BYTES_MAX: usize = 200 * 1024;

#[test]
fn every_input_of_the_corpora_keeps_the_promises() {
    let mut bytes = 0;
    for target in ALL {
        let corpus = corpus(target);
        assert!(corpus.len() > 1, "{} has no corpus", target.name);
        for (name, input) in corpus {
            bytes += input.len();
            check(target, &input, &format!("corpus/{}/{name}", target.name));
        }
    }
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes: minimise them with `cargo fuzz cmin`");
}

#[test]
fn inputs_changed_at_random_keep_the_promises() {
    let runs = setting("RINGWAY_FUZZ_RUNS").map_or(RUNS, |runs| u32::try_from(runs).unwrap());
    let seed = setting("RINGWAY_FUZZ_SEED").unwrap_or_else(|| {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(time.subsec_nanos()) ^ time.as_secs().rotate_left(32)
    });
    println!("RINGWAY_FUZZ_SEED={seed} RINGWAY_FUZZ_RUNS={runs}");
    for target in ALL {
        // The same inputs whatever the other targets do.
        let mut random = Random(seed ^ target.name.bytes().fold(0, |h, b| h << 5 ^ u64::from(b)));
        let corpus = corpus(target);
        for run in 0..runs / target.cost {
            let mut input = random.pick(&corpus).1.clone();
            let other = &random.pick(&corpus).1;
            random.change(&mut input, other);
            let name = format!(
                "{}, input {run} of RINGWAY_FUZZ_SEED={seed} RINGWAY_FUZZ_RUNS={runs}",
                target.name
            );
            check(target, &input, &name);
        }
    }
}

#[test]
fn every_target_can_be_searched_by_coverage() {
    let folder = folder();
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in ALL {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        let driver = folder.join(format!("fuzz_targets/{}.rs", target.name));
        assert!(fs::read_to_string(driver).unwrap().contains(&format!("\"{}\"", target.name)));
    }
}

fn check(target: &Target, input: &[u8], name: &str) {
    if catch_unwind(AssertUnwindSafe(|| targets::run(target.name, input))).is_err() {
        panic!("{name} breaks a promise (see above); in hexadecimal: {}", hex::encode(input));
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// A target's inputs in an order that does not depend on the file system.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = folder().join("corpus").join(target.name);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap();
        usize::try_from(self.next() % limit).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// What fuzzers do: flip, overwrite, insert, drop, repeat, and splice with
    /// another input.
    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        const TELLING: &[u8] = b"\x00\x01\x7f\x80\xff\r\n :,.\"\\{}[]-0";
        for _ in 0..=self.next() % CHANGES_MAX {
            let at = self.below(input.len());
            let len = self.below(16).min(input.len() - at);
            match self.next() % 8 {
                0 if !input.is_empty() => input[at] ^= 1 << (self.next() % 8),
                1 if !input.is_empty() => input[at] = self.byte(),
                2 if !input.is_empty() => input[at] = *self.pick(TELLING),
                3 => input.insert(at, *self.pick(TELLING)),
                4 => drop(input.drain(at..at + len)),
                5 => {
                    let again = input[at..at + len].to_vec();
                    input.splice(at..at, again);
                }
                6 => {
                    let from = self.below(other.len());
                    let piece = other[from..].iter().copied().take(self.below(64));
                    input.splice(at..at + len, piece.collect::<Vec<_>>());
                }
                _ => input.truncate(at),
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}
