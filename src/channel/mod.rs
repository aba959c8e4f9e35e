//! The channel to the broker: the pump that both ends share, and the machines'
//! side of it.

pub mod client;
pub mod enroll;
pub mod pump;
