//! libFuzzer drives `rdp_signature` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("rdp_signature", input));
