//! A gateway that cannot have its rings says what is in the way, and ends.

use std::process::{Command, Output};

use rustix::process::getuid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::support::ca::TestCa;
use crate::support::gateway_process::GatewaySetup;
use crate::support::programs::available;

fn setup() -> GatewaySetup {
    // Nobody listens there: it does not get as far as asking.
    GatewaySetup::new("gw-process", &TestCa::new(), "https://127.0.0.1:1", "sessions_max = 10")
}

/// Runs a gateway that is expected to give up. Everything it said.
fn refusal(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("ringway: "), "{said}");
    said
}

/// The same under a seccomp filter that answers one system call with `errno`.
fn refusal_without(syscall: i64, errno: i32, through: &'static [&str]) -> String {
    let filter = SeccompFilter::new(
        [(syscall, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let setup = setup();
    // A filter stays with the thread that took it and what that starts.
    let filtered = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        refusal(&mut setup.command(through))
    });
    filtered.join().unwrap()
}

#[test]
fn a_kernel_that_does_not_let_it_have_a_ring_is_named_with_the_remedy() {
    for (syscall, errno, named) in [
        (libc::SYS_io_uring_setup, libc::EPERM, "seccomp"),
        (libc::SYS_io_uring_register, libc::EACCES, "io_uring_register"),
        (libc::SYS_io_uring_setup, libc::ENOSYS, "CONFIG_IO_URING"),
        (libc::SYS_io_uring_setup, libc::EINVAL, "Linux 6.1 or newer"),
        (libc::SYS_io_uring_register, libc::EINVAL, "Linux 6.1 or newer"),
        (libc::SYS_io_uring_setup, libc::ENOMEM, "MemoryMax="),
        (libc::SYS_io_uring_setup, libc::ENFILE, "fs.file-max"),
    ] {
        let said = refusal_without(syscall, errno, &[]);
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn limits_that_do_not_let_it_have_a_ring_are_named() {
    if !available(&["prlimit", "setpriv"]) {
        return;
    }
    // Whoever has CAP_IPC_LOCK may lock what he likes.
    let unprivileged: &[&str] =
        if getuid().is_root() { &["setpriv", "--bounding-set", "-ipc_lock", "--"] } else { &[] };
    for (limit, named) in [("--memlock=4096", "LimitMEMLOCK="), ("--nofile=13", "LimitNOFILE=")] {
        // One that starts all the same is a failure, and must not stay.
        let limited = ["timeout", "60", "prlimit", limit, "--"];
        let said = refusal(&mut setup().command(&[unprivileged, &limited].concat()));
        assert!(said.contains(named), "{limit}: {said}");
    }
}

#[test]
fn too_few_descriptors_for_the_configured_limits_are_warned_of() {
    if !available(&["prlimit"]) {
        return;
    }
    // A soft limit is raised, a hard one is not.
    for (through, warned) in [
        (&["prlimit", "--nofile=64:10000", "--"], false),
        (&["prlimit", "--nofile=64:200", "--"], true),
    ] {
        // What ends it has nothing to do with it.
        let said = refusal_without(libc::SYS_io_uring_setup, libc::ENOSYS, through);
        assert_eq!(said.contains("Too few descriptors"), warned, "{said}");
    }
}
