//! The broker as its machines and users see it, over real TLS on loopback.

mod access;
mod gateways;
mod impostors;
mod issuer;
mod pools;
mod returning;
mod revoking;
mod sessions;
mod trail;
