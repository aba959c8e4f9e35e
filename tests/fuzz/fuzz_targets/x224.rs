//! libFuzzer drives `x224` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("x224", input));
