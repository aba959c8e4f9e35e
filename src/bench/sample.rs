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
    /// Output slots of a gateway that hold bytes, when it was asked.
    pub output_slots: u64,
}

impl Sample {
    /// All of these processes together; those that are gone count for nothing.
    #[must_use]
    pub fn of(processes: &[u32]) -> Self {
        processes.iter().map(|pid| Self::of_one(*pid)).fold(Self::default(), |sum, one| Self {
            cpu_ns: sum.cpu_ns + one.cpu_ns,
            rss_bytes: sum.rss_bytes + one.rss_bytes,
            descriptors: sum.descriptors + one.descriptors,
            output_slots: sum.output_slots + one.output_slots,
        })
    }

    /// The larger of each.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.max(other.cpu_ns),
            rss_bytes: self.rss_bytes.max(other.rss_bytes),
            descriptors: self.descriptors.max(other.descriptors),
            output_slots: self.output_slots.max(other.output_slots),
        }
    }

    /// This very process.
    #[must_use]
    pub fn of_ourselves() -> Self {
        Self::of_one(std::process::id())
    }

    /// [`Sample::cpu_ns`] alone, of these processes together.
    #[must_use]
    pub fn cpu_ns_of(processes: &[u32]) -> u64 {
        let tasks = processes.iter().flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")));
        let on_core = tasks.flatten().flatten().filter_map(|task| {
            time_on_core_ns(&std::fs::read_to_string(task.path().join("schedstat")).ok()?)
        });
        on_core.sum()
    }

    fn of_one(pid: u32) -> Self {
        let place = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(place.join("status")).unwrap_or_default();
        let descriptors = std::fs::read_dir(place.join("fd")).map_or(0, |all| all.count() as u64);
        Self {
            cpu_ns: Self::cpu_ns_of(&[pid]),
            rss_bytes: rss_bytes(&status).unwrap_or(0),
            descriptors,
            output_slots: 0,
        }
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

/// What the machine's cores did, all together, since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreTime {
    /// In ticks, whatever they are: only shares are of interest.
    all: u64,
    /// Ready to run while the host ran somebody else (proc_stat(5): steal).
    stolen: u64,
}

impl CoreTime {
    #[must_use]
    pub fn now() -> Self {
        Self::read(&std::fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    fn read(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal; guests are in user.
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(|field| field.parse().unwrap_or(0)).collect();
        Some(Self { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    /// How much of the machine other guests of its host had since then, in
    /// percent.
    #[must_use]
    pub fn stolen_percent_since(&self, earlier: &Self) -> f64 {
        let ticks =
            |now: u64, then: u64| u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX);
        let all = ticks(self.all, earlier.all).max(1);
        f64::from(ticks(self.stolen, earlier.stolen)) * 100.0 / f64::from(all)
    }
}

/// What the figures were taken on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub ringway: &'static str,
    pub congestion_control: String,
    /// How much of it other guests of its host had while measuring.
    pub stolen_percent: f64,
}

impl Machine {
    /// `congestion_control` as a connection of the run had it.
    #[must_use]
    pub fn here(congestion_control: Option<String>, stolen_percent: f64) -> Self {
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
            stolen_percent,
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
        let (before, after) = (
            CoreTime::read("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1 2").unwrap(),
            CoreTime::read("cpu  20 0 20 120 0 0 0 40 9 0\n").unwrap(),
        );
        assert!((after.stolen_percent_since(&before) - 30.0).abs() < 1e-9);
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
