//! The harness: real programs and fake parties around Ringway.

pub mod ca;
pub mod deployment;
pub mod desktop;
pub mod fake_broker;
pub mod gateway;
pub mod gateway_process;
pub mod legs;
pub mod pattern;
pub mod ports;
pub mod process;
pub mod programs;
pub mod pusher;
pub mod service_manager;
pub mod wait;
pub mod world;
pub mod xrdp;
