//! The harness: real programs and fake parties around Ringway.

pub mod deployment;
pub mod desktop;
pub mod process;
pub mod programs;
pub mod service_manager;
pub mod wait;
pub mod xrdp;
