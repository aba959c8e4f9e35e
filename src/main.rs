//! The `ringway` command: parse arguments, call one function per role.

use std::process::ExitCode;

use clap::Parser as _;

/// Many small allocations live as long as a session and are freed on another
/// thread; mimalloc keeps that cheap and its footprint flat.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringway::cli::run(ringway::cli::Cli::parse())
}
