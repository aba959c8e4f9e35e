//! What a process uses, seen from outside: /proc.

use std::path::PathBuf;

use serde::Serialize;

/// What the sampled processes had used, or held, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// On a core, all threads, user and system, in nanoseconds.
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    pub descriptors: u64,
}

impl Sample {
    /// All of these processes together; those that are gone count for nothing.
    #[must_use]
    pub fn of(processes: &[u32]) -> Self {
        processes.iter().map(|pid| Self::of_one(*pid)).fold(Self::default(), |sum, one| Self {
            cpu_ns: sum.cpu_ns + one.cpu_ns,
            rss_bytes: sum.rss_bytes + one.rss_bytes,
            descriptors: sum.descriptors + one.descriptors,
        })
    }

    /// The larger of each.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.max(other.cpu_ns),
            rss_bytes: self.rss_bytes.max(other.rss_bytes),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    /// This very process.
    #[must_use]
    pub fn of_ourselves() -> Self {
        Self::of_one(std::process::id())
    }

    fn of_one(pid: u32) -> Self {
        let place = PathBuf::from(format!("/proc/{pid}"));
        let tasks = std::fs::read_dir(place.join("task")).into_iter().flatten().flatten();
        let on_core = tasks.filter_map(|task| {
            time_on_core_ns(&std::fs::read_to_string(task.path().join("schedstat")).ok()?)
        });
        let status = std::fs::read_to_string(place.join("status")).unwrap_or_default();
        let descriptors = std::fs::read_dir(place.join("fd")).map_or(0, |all| all.count() as u64);
        Self { cpu_ns: on_core.sum(), rss_bytes: rss_bytes(&status).unwrap_or(0), descriptors }
    }
}

/// The first number of `schedstat`: time on a core, precise, interrupts that it
/// served included.
fn time_on_core_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}

/// What the figures were taken on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub ringway: &'static str,
    pub congestion_control: String,
}

impl Machine {
    /// `congestion_control` as a connection of the run had it.
    #[must_use]
    pub fn here(congestion_control: Option<String>) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu =
            model.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim());
        let uname = rustix::system::uname();
        Self {
            cpu: cpu.to_owned(),
            // Of the machine; we may be confined to one.
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: uname.release().to_string_lossy().into_owned(),
            ringway: env!("CARGO_PKG_VERSION"),
            congestion_control: congestion_control.unwrap_or_else(|| "unknown".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(time_on_core_ns("123456789 42 7\n"), Some(123_456_789));
        let status = "Name:\tx\nVmRSS:\t    5120 kB\nThreads:\t1\n";
        assert_eq!(rss_bytes(status), Some(5_120 * 1_024));
        assert_eq!((time_on_core_ns(""), rss_bytes("VmRSS: much")), (None, None));
    }

    #[test]
    fn this_process_uses_something() {
        let sample = Sample::of_ourselves();
        assert!(sample.cpu_ns > 0 && sample.rss_bytes > 0 && sample.descriptors > 0, "{sample:?}");
        assert_eq!(
            Sample::of(&[std::process::id(); 2]).descriptors / 2,
            Sample::of_ourselves().descriptors
        );
    }
}
