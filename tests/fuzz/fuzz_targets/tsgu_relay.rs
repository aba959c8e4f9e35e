//! libFuzzer drives `tsgu_relay` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("tsgu_relay", input));
