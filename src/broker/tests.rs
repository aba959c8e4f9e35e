//! The broker as its machines and users see it, over real TLS on loopback.

mod access;
mod gateways;
mod issuer;
mod pools;
mod sessions;
