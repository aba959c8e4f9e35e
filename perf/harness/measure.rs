//! Runs `ringway bench` or the floor once and takes from their JSON what the
//! comparison uses.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::engines::Engine;
use crate::rivals::{GENERATOR_CORE, RELAY_CORE, Target};
use crate::works::{Plan, Scenario};

/// On top of what a run should take.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of what a failed run said, this much of the end is shown.
const LAST_WORDS: usize = 400;

/// What `ringway bench … --json` says, as far as it is used here. What does not
/// apply to a kind of run is absent or null.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Measured {
    pub machine: Option<Seen>,
    pub offered_messages_per_s: Option<f64>,
    pub delivered_messages_per_s: Option<f64>,
    pub latency_us: Option<Latencies>,
    pub generator: Option<Generator>,
    pub process: Option<Process>,
    pub seconds: Option<f64>,
    pub cpu_s_per_gb: Option<f64>,
    pub cpu_us_per_message: Option<f64>,
    pub messages_per_s_per_core: Option<f64>,
    pub handshakes: Option<Handshakes>,
    pub rss_bytes_per_session: Option<f64>,
    pub faults: Vec<serde_json::Value>,
    /// The two parts of the floor.
    pub aead_cpu_s_per_gb: Option<f64>,
    pub loop_cpu_s_per_gb: Option<f64>,
}

/// What the bench saw on its own connections.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Seen {
    pub congestion_control: Option<String>,
    /// How much of the machine other guests of its host had meanwhile.
    pub stolen_percent: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Latencies {
    pub all: Option<Percentiles>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Generator {
    pub cpu_s: f64,
    pub late_us: Option<Percentiles>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    pub rss_bytes: Option<BeforeDuring>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BeforeDuring {
    pub before: f64,
    pub during: f64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Handshakes {
    pub per_s_per_core: Option<f64>,
}

impl Measured {
    pub fn latency(&self) -> Option<Percentiles> {
        self.latency_us.as_ref()?.all
    }

    /// How much resident memory the run added.
    pub fn rss_growth_bytes(&self) -> Option<f64> {
        let rss = self.process.as_ref()?.rss_bytes?;
        Some(rss.during - rss.before)
    }

    pub fn stolen_percent(&self) -> Option<f64> {
        self.machine.as_ref()?.stolen_percent
    }

    /// The share of its core that the generator used.
    pub fn generator_busy(&self) -> Option<f64> {
        let seconds = self.seconds.filter(|seconds| *seconds > 0.0)?;
        Some(self.generator.as_ref()?.cpu_s / seconds)
    }

    /// What arrived of what was offered, where a rate was offered.
    pub fn delivered(&self) -> Option<f64> {
        let offered = self.offered_messages_per_s.filter(|offered| *offered > 0.0)?;
        Some(self.delivered_messages_per_s? / offered)
    }
}

/// The programs that measure.
pub struct Programs {
    pub ringway: PathBuf,
    /// The folder with `floor` and `epoll`.
    pub examples: PathBuf,
    /// Scratch: what they print.
    pub folder: PathBuf,
}

impl Programs {
    /// One run, from its arguments to its numbers.
    ///
    /// # Errors
    /// When it does not end in time, fails, or says something else.
    pub fn run(
        &self,
        (scenario, engine): (Scenario, Engine),
        target: Option<&Target>,
        hlog: Option<&Path>,
        plan: &Plan,
    ) -> anyhow::Result<Measured> {
        let mut command = if engine == Engine::Floor {
            let mut floor = Command::new(self.examples.join("floor"));
            floor.args(["--seconds", &scenario.seconds(plan).to_string()]);
            floor.args(["--relay-core", &RELAY_CORE.to_string()]);
            floor
        } else {
            let mut bench = Command::new(&self.ringway);
            bench.arg("bench").args(scenario.arguments(plan));
            bench.args(["--json", "--cipher", "aes128"]);
            match target {
                Some(target) => bench.args(target.arguments(scenario)),
                None => bench.args(["--gateway-core", &RELAY_CORE.to_string()]),
            };
            if let Some(hlog) = hlog {
                bench.arg("--hlog").arg(hlog);
            }
            bench
        };
        command.args(["--core", &GENERATOR_CORE.to_string()]);
        let limit = Duration::from_secs(plan.estimate_s(scenario).into()) + PATIENCE;
        let (status, printed, said) = self.output(&mut command, limit)?;
        let measured = parse(&printed);
        // A failed run says what was wrong in its result, if it got that far.
        if let Some(fault) = measured.as_ref().ok().and_then(|measured| measured.faults.first()) {
            bail!("the bench found a fault: {fault}");
        }
        anyhow::ensure!(status.success(), "{status}: {said}");
        measured
    }

    /// How it ended, what it printed, and its last words on standard error.
    fn output(
        &self,
        command: &mut Command,
        limit: Duration,
    ) -> anyhow::Result<(ExitStatus, String, String)> {
        let (out, err) = (self.folder.join("bench.out"), self.folder.join("bench.err"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                bail!("did not end within {} s: {}", limit.as_secs(), last_words(&err));
            }
            thread::sleep(LOOK_EVERY);
        };
        Ok((status, fs::read_to_string(&out)?, last_words(&err)))
    }
}

fn last_words(file: &Path) -> String {
    let said = fs::read(file).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = words.chars().count().saturating_sub(LAST_WORDS);
    words.chars().skip(skipped).collect()
}

/// The last line is the result; programs may say something before it.
fn parse(printed: &str) -> anyhow::Result<Measured> {
    let line = printed.lines().last().context("printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("not the JSON of a bench: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape that `ringway bench --json` promises.
    const PRINTED: &str = r#"{"bench":"relay","machine":{"cpu":"x","congestion_control":"cubic","stolen_percent":2.5},"target":"ringway",
        "profile":"word=4","sessions":64,"seconds":10.0,"arrival":"open loop","latency_basis":"x",
        "messages":{"up":1,"down":2},"bytes":{"up":1,"down":2},
        "offered_messages_per_s":200.0,"delivered_messages_per_s":198.0,
        "latency_us":{"up":{"count":1,"p50":2,"p90":3,"p99":4,"p999":5,"max":6},"down":null,
            "all":{"count":1,"p50":20,"p90":30,"p99":40,"p999":50,"max":60}},
        "generator":{"cpu_s":5.0,"late_us":{"count":1,"p50":2,"p90":3,"p99":4,"p999":5,"max":6}},
        "process":{"cpu_s":1.0,"rss_bytes":{"before":100,"during":250,"after":100},
            "descriptors":{"before":1,"during":2,"after":1}},
        "cpu_s_per_gb":0.3,"cpu_us_per_message":5.1,"messages_per_s_per_core":1.0,"handshakes":null,
        "rss_bytes_per_session":6000,"verified_bytes":123,"faults":[]}"#;

    #[test]
    fn the_result_of_a_bench_is_read_whole() {
        let line = format!("progress\n{}\n", PRINTED.replace('\n', " "));
        let measured = parse(&line).unwrap();
        assert_eq!(measured.cpu_s_per_gb, Some(0.3));
        let seen = measured.machine.clone().unwrap();
        assert_eq!(seen.congestion_control.as_deref(), Some("cubic"));
        assert_eq!(measured.stolen_percent(), Some(2.5));
        assert_eq!(measured.latency().unwrap().p999, 50.0);
        assert_eq!(measured.rss_growth_bytes(), Some(150.0));
        assert_eq!(measured.generator_busy(), Some(0.5));
        assert_eq!(measured.delivered(), Some(0.99));
        assert_eq!(measured.rss_bytes_per_session, Some(6000.0));
        assert!(measured.handshakes.is_none() && measured.faults.is_empty());
    }

    #[test]
    fn what_a_run_does_not_measure_may_be_null_or_absent() {
        let measured =
            parse(r#"{"process":null,"latency_us":null,"cpu_s_per_gb":null,"generator":null}"#);
        let measured = measured.unwrap();
        assert!(measured.latency().is_none() && measured.rss_growth_bytes().is_none());
        assert!(measured.generator_busy().is_none() && measured.delivered().is_none());
        assert!(parse("").is_err() && parse("no json").is_err());
    }
}
