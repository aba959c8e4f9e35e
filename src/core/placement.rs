//! Which session host takes a user.
