//! Signatures of `.rdp` files, in the format that stock clients check.
//!
//! A signature covers the settings that `signscope` names, out of a fixed list
//! ([`SIGNABLE`]), and nothing else: whoever opens a file must look at
//! [`Verified::covers`] before relying on a setting. The format is Microsoft's
//! (a sample is in MS-RDWR 4.2): a detached CMS `SignedData` (RFC 5652) over
//! the text of those lines, so `openssl cms -verify` reads it as well.

mod envelope;
mod scope;
mod sign;
mod verify;

#[cfg(test)]
mod tests;

pub use scope::{SIGNABLE, ScopeProblem};
pub use sign::{SignError, Signer};
pub use verify::{SignatureError, Verified, verify};
