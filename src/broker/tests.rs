//! The broker as its machines and users see it, over real TLS on loopback.

mod access;
mod impostors;
mod issuer;
mod revoking;
mod sessions;
mod trail;
