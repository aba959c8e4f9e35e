//! TLS: which suites, whose certificates, the handshake, and the record layer
//! that takes over after it.

pub mod handshake;
pub mod identity;
pub mod listener;
pub mod live_certificate;
pub mod pinned_ca;
pub mod record;
pub mod settings;

/// Makes aws-lc-rs the process-wide provider, for libraries that ask for one.
/// Our own configurations name it explicitly. Calling it again is harmless.
pub fn install_provider() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
