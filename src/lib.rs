//! Ringway carries Remote Desktop sessions to machines that accept no inbound
//! connection: client and session host both dial out to a gateway, and the
//! gateway joins the two.
//!
//! # The twelve steps
//!
//! | step | what happens | room |
//! | --- | --- | --- |
//! | 1 | the user subscribes to a workspace | [`connect`] |
//! | 2 | the identity provider authenticates the user | any OIDC issuer; [`demo`] has one for itself |
//! | 3 | the client passes the token to the feed | [`connect`] |
//! | 4 | the feed validates the token | [`broker`] |
//! | 5 | the feed returns signed connection configurations | [`broker`] |
//! | 6 | the client stores them as `.rdp` files | [`connect`] |
//! | 7 | the client opens TLS to a gateway; the best gateway is selected | [`gateway`] control, [`core::selection`] |
//! | 8 | the gateway validates the request and asks the broker | [`gateway`] lobby and control |
//! | 9 | the broker picks the session host and orders it over its channel | [`broker`], [`core::placement`] |
//! | 10 | the host opens TLS to the same gateway | [`agent`] |
//! | 11 | the gateway relays | [`gateway`] relay |
//! | 12 | RDP starts, with its own TLS inside | client and host |
//!
//! # The rooms
//!
//! [`core`] decides and does no I/O; [`wire`] encodes and decodes; [`tls`] has
//! configurations, certificates and the record layer; [`dial`] is how our own ends
//! reach a gateway or broker; [`channel`] is the machines' side of the broker
//! channel; [`gateway`], [`broker`],
//! [`agent`] and [`connect`] are the roles; [`demo`] is all of them in one
//! process; [`bench`] is the load harness; [`observe`] names what is measured; [`config`] checks what the
//! operator wrote; [`cli`] is the command line.
//!
//! `unsafe` lives in `gateway::relay::ring` and nowhere else; a test of the
//! house rules (`tests/it/tidy.rs`) says so.

#![deny(unsafe_code)] // allowed in gateway::relay::ring alone

pub mod agent;
pub mod bench;
pub mod broker;
pub mod channel;
pub mod cli;
pub mod config;
pub mod connect;
pub mod core;
pub mod demo;
pub mod dial;
pub mod gateway;
pub mod observe;
pub mod tls;
pub mod wire;
