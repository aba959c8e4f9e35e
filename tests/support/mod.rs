//! The harness: real programs and fake parties around Ringway.

pub mod programs;
