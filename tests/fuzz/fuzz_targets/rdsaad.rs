//! libFuzzer drives `rdsaad` of `targets.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::run("rdsaad", input));
