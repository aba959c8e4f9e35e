//! What the numbers were measured on.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value};

use crate::engines::Engine;
use crate::results::Run;
use crate::statistics::Summary;
use crate::works::Plan;

/// Facts in the order in which they are printed.
#[derive(Clone, Debug)]
pub struct Machine(Vec<(&'static str, Value)>);

impl Machine {
    /// Looks around. Called inside the network namespace of the comparison.
    pub fn look(plan: &Plan, versions: &[(Engine, String)]) -> Self {
        let mut facts = vec![
            ("cpu", Value::from(cpu_model(&text("/proc/cpuinfo")))),
            ("cores", Value::from(std::thread::available_parallelism().map_or(0, usize::from))),
            ("l2_cache", Value::from(text("/sys/devices/system/cpu/cpu0/cache/index2/size"))),
            ("virtual", Value::from(text("/proc/cpuinfo").contains(" hypervisor"))),
            ("memory_mb", Value::from(memory_mb(&text("/proc/meminfo")))),
            ("kernel", Value::from(text("/proc/sys/kernel/osrelease"))),
            ("loopback_mtu", Value::from(text("/sys/class/net/lo/mtu"))),
            ("load_before", Value::from(first_word(&text("/proc/loadavg")))),
            ("ringway", Value::from(env!("CARGO_PKG_VERSION"))),
        ];
        let versions =
            versions.iter().map(|(engine, version)| (engine.key(), Value::from(&**version)));
        facts.extend(versions);
        facts.push(("rounds", Value::from(plan.rounds)));
        facts.push(("quick", Value::from(plan.quick)));
        Self(facts)
    }

    /// Adds what the connections of the runs had, which a route decides.
    pub fn saw(&mut self, runs: &[Run]) {
        let seen = runs.iter().filter_map(|run| run.outcome.as_ref().ok()?.machine.as_ref());
        let names: BTreeSet<_> = seen.filter_map(|seen| seen.congestion_control.clone()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        self.0.push(("congestion_control", Value::from(names)));
        let stolen = runs.iter().filter_map(|run| run.outcome.as_ref().ok()?.stolen_percent());
        let stolen = Summary::of(stolen).map_or(Value::Null, |stolen| {
            Value::from(format!("{:.1} (highest {:.1})", stolen.median, stolen.high))
        });
        self.0.push(("stolen_percent_median", stolen));
    }

    pub fn facts(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.0.iter().map(|(name, value)| match value {
            Value::String(text) => (*name, text.clone()),
            other => (*name, other.to_string()),
        })
    }

    pub fn json(&self) -> Value {
        let facts = self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Value::Object(facts.collect::<Map<_, _>>())
    }

    #[cfg(test)]
    pub fn of(facts: Vec<(&'static str, Value)>) -> Self {
        Self(facts)
    }
}

/// A file of the kernel's, or "unknown".
fn text(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let text = text.trim();
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("unknown")
}

fn cpu_model(cpuinfo: &str) -> &str {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, model)| model.trim())
}

fn memory_mb(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| first_word(line).parse::<u64>().ok());
    kilobytes.map_or(0, |kilobytes| kilobytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::works::tests::plan;

    #[test]
    fn facts_are_taken_from_what_the_kernel_says() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n"),
            "Some CPU @ 3 GHz"
        );
        assert_eq!(cpu_model(""), "unknown");
        assert_eq!(memory_mb("MemTotal:       2048000 kB\nMemFree: 1 kB\n"), 2000);
        assert_eq!(first_word("0.52 0.40 0.30"), "0.52");
    }

    #[test]
    fn what_was_compared_is_part_of_the_machine() {
        let plan = plan(true, &[]);
        let machine = Machine::look(&plan, &[(Engine::Haproxy, "3.2.1".to_owned())]).json();
        assert_eq!(machine["haproxy"], "3.2.1");
        assert_eq!(machine["quick"], true);
        assert!(machine["cores"].as_u64().unwrap() >= 1);
    }
}
