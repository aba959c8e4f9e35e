//! What decides. Nothing here owns a socket, reads a clock, draws a random
//! number or awaits: time, randomness and bytes are arguments, decisions are
//! return values. That is what makes each rule testable, fuzzable and
//! replayable. ([`random`] is a formula, its seed an argument like any other.)

pub mod attempts;
pub mod audit;
pub mod backoff;
pub mod clock;
pub mod codes;
pub mod health;
pub mod heartbeat;
pub mod ids;
pub mod key_ring;
pub mod pairing;
pub mod per_address;
pub mod placement;
pub mod random;
pub mod revocation;
pub mod secret;
pub mod selection;
pub mod tickets;
