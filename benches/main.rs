//! Did this function get slower? One room per file; `CONTRIBUTING.md` says how
//! to run them. What a whole gateway costs is measured elsewhere, from outside.

#![expect(clippy::unwrap_used, reason = "a measurement of what went wrong is worth nothing")]

mod core;
mod framing;
mod gateway;
mod observe;
mod tls;
mod wire;

/// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}
