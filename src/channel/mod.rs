//! The machines' side of the channel to the broker.

pub mod enroll;
