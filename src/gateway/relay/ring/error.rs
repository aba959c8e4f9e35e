//! Why a ring cannot be made, and what to do about it: the kernel says one
//! number, whoever runs the gateway needs the name of what is in the way.

use std::io;

use rustix::process::{Resource, getrlimit};

/// What is in the way, and how to get it out of there.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("sysctl kernel.io_uring_disabled=2 switches io_uring off ({0}); set it to 0")]
    SwitchedOff(io::Error),
    #[error(
        "sysctl kernel.io_uring_disabled=1 keeps io_uring from this user ({0}); set it to 0, or \
         sysctl kernel.io_uring_group to the number of a group of this user"
    )]
    Reserved(io::Error),
    #[error(
        "io_uring is refused ({step}: {error}), and not by a sysctl: a seccomp filter, as \
         containers have one, or a security module does it; allow io_uring_setup, \
         io_uring_register and io_uring_enter there"
    )]
    Filtered { step: &'static str, error: io::Error },
    #[error(
        "Linux {kernel} has no io_uring ({error}): it was built without CONFIG_IO_URING, or a \
         seccomp filter hides it; run Linux 6.1 or newer outside such a filter"
    )]
    Missing { kernel: String, error: io::Error },
    #[error("Linux {kernel} lacks a feature of io_uring ({step}: {error}); run Linux 6.1 or newer")]
    TooOld { kernel: String, step: &'static str, error: io::Error },
    #[error(
        "no memory for {step} ({error}); raise MemoryMax= or LimitAS= of the unit (ulimit -v), \
         or LimitMEMLOCK= (ulimit -l), of which {lockable} may be locked, or give it CAP_IPC_LOCK"
    )]
    Memory { step: &'static str, lockable: String, error: io::Error },
    #[error(
        "no descriptor is left for {step} ({error}); raise LimitNOFILE= of the unit (ulimit -n), \
         now {limit}"
    )]
    Descriptors { step: &'static str, limit: String, error: io::Error },
    #[error("no descriptor is left in the whole system ({0}); raise sysctl fs.file-max")]
    SystemDescriptors(io::Error),
    #[error("no thread is left for {step} ({error}); raise TasksMax= or LimitNPROC= of the unit")]
    Threads { step: &'static str, error: io::Error },
    #[error("io_uring failed at {step}: {error}")]
    Other { step: &'static str, error: io::Error },
}

impl RingError {
    /// Explains what the kernel answered at this step.
    pub(crate) fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self::explain(step, error, disabled_by_sysctl(), crate::gateway::kernel)
    }

    fn explain(
        step: &'static str,
        error: io::Error,
        disabled: Option<u8>,
        kernel: fn() -> String,
    ) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => match disabled {
                Some(2) => Self::SwitchedOff(error),
                Some(1) => Self::Reserved(error),
                _ => Self::Filtered { step, error },
            },
            Some(libc::ENOSYS) => Self::Missing { kernel: kernel(), error },
            Some(libc::EINVAL | libc::EOPNOTSUPP) => Self::TooOld { kernel: kernel(), step, error },
            Some(libc::ENOMEM) => {
                Self::Memory { step, lockable: limit(Resource::Memlock) + " bytes", error }
            }
            Some(libc::EMFILE) => Self::Descriptors { step, limit: limit(Resource::Nofile), error },
            Some(libc::ENFILE) => Self::SystemDescriptors(error),
            Some(libc::EAGAIN) => Self::Threads { step, error },
            _ => Self::Other { step, error },
        }
    }
}

/// The value of a sysctl that kernels before 6.6 do not have.
fn disabled_by_sysctl() -> Option<u8> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    text.trim().parse().ok()
}

fn limit(resource: Resource) -> String {
    getrlimit(resource).current.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(errno: i32, disabled: Option<u8>) -> String {
        let error = io::Error::from_raw_os_error(errno);
        RingError::explain("a step", error, disabled, || "5.4.0".to_owned()).to_string()
    }

    #[test]
    fn each_answer_of_the_kernel_names_what_to_change() {
        for (errno, disabled, named) in [
            (libc::EPERM, Some(2), "kernel.io_uring_disabled=2"),
            (libc::EPERM, Some(1), "kernel.io_uring_group"),
            (libc::EPERM, Some(0), "seccomp"),
            (libc::EACCES, None, "security module"),
            (libc::ENOSYS, None, "CONFIG_IO_URING"),
            (libc::EINVAL, None, "Linux 5.4.0 lacks"),
            (libc::ENOMEM, None, "LimitMEMLOCK="),
            (libc::ENOMEM, None, "CAP_IPC_LOCK"),
            (libc::EMFILE, None, "LimitNOFILE="),
            (libc::ENFILE, None, "fs.file-max"),
            (libc::EAGAIN, None, "TasksMax="),
            (libc::EIO, None, "a step"),
        ] {
            let text = explained(errno, disabled);
            assert!(text.contains(named), "{errno}: {text}");
        }
    }
}
