//! The harness: real programs and fake parties around Ringway.

pub mod broker_process;
pub mod browser;
pub mod ca;
pub mod chromium;
pub mod deployment;
pub mod desktop;
pub mod fake_broker;
pub mod faulty_relay;
pub mod gateway;
pub mod gateway_process;
pub mod legs;
pub mod oidc_provider;
pub mod pattern;
pub mod ports;
pub mod process;
pub mod programs;
pub mod pusher;
pub mod scripted_host;
pub mod service_manager;
pub mod slow_path;
pub mod stage;
pub mod subscriber;
pub mod targets;
pub mod wait;
pub mod world;
pub mod xrdp;
