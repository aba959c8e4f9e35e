//! libFuzzer drives `record_layer` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("record_layer", input));
