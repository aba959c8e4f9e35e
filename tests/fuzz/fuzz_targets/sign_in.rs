//! libFuzzer drives `sign_in` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("sign_in", input));
