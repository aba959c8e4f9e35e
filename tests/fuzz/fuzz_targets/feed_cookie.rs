//! libFuzzer drives `feed_cookie` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("feed_cookie", input));
