//! What a gateway measures reaches the disk and the operator, whole: counts in
//! logs and answers are those of the sessions that were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use ringway::cli::ctl::ask;
use ringway::core::codes::Code;
use ringway::observe::histogram_log;
use ringway::wire::admin::{AdminRequest, AdminResponse};
use rustls::ClientConfig;
use serde_json::Value;

use crate::support::ca::TestCa;
use crate::support::fake_broker::FakeBroker;
use crate::support::gateway_process::GatewayProcess;
use crate::support::legs::dial;
use crate::support::programs::ringway;
use crate::support::wait::until;
use crate::support::world::Pair;

const DESCRIPTORS: u64 = 256;
/// Each is one message up and one down.
const ROUNDS: u64 = 5;
const SIGNAL_ONLY: &str = "[gateway.histograms]\ninterval_ms = 0";

struct Setting {
    ca: Arc<TestCa>,
    tls: Arc<ClientConfig>,
    broker: FakeBroker,
    process: GatewayProcess,
}

impl Setting {
    fn start(settings: &str) -> Self {
        let ca = Arc::new(TestCa::new());
        let broker = FakeBroker::start(&ca);
        let process = GatewayProcess::start(&ca, &broker.url(), DESCRIPTORS, settings);
        Self { tls: Arc::new(ca.client_tls()), ca, broker, process }
    }

    /// Sessions that go on, each with some messages behind it.
    async fn sessions(&self, count: usize) -> Vec<Pair> {
        sessions(&self.process, &self.broker, &self.tls, count).await
    }

    fn handshakes(&self) -> u64 {
        match ask(&self.process.admin_socket(), &AdminRequest::Status).unwrap() {
            AdminResponse::GatewayStatus(status) => status.handshakes,
            other => panic!("{other:?}"),
        }
    }
}

async fn sessions(
    process: &GatewayProcess,
    broker: &FakeBroker,
    tls: &Arc<ClientConfig>,
    count: usize,
) -> Vec<Pair> {
    let mut pairs = vec![process.first_pair(broker, tls).await];
    while pairs.len() < count {
        pairs.push(process.pair(broker, tls).await.unwrap());
    }
    for pair in &mut pairs {
        for _ in 0..ROUNDS {
            pair.assert_alive().await;
        }
    }
    pairs
}

/// What so many sessions must have left, besides handshakes: those of
/// connections that were refused count too.
fn expected(sessions: u64) -> Counts {
    let per_session = ["admit", "orchestrate", "host_leg", "pairing", "join"];
    let mut counts: Counts =
        per_session.iter().map(|name| ((*name).to_owned(), sessions)).collect();
    for name in ["relay_up", "relay_down"] {
        counts.insert(name.to_owned(), sessions * ROUNDS);
    }
    counts
}

type Counts = BTreeMap<String, u64>;

/// One line of a log, read by the library's own reader.
#[derive(Debug)]
struct Line {
    tag: String,
    start: SystemTime,
    length: Duration,
    count: u64,
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn lines(folder: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    for file in files(folder) {
        let text = std::fs::read(file).unwrap();
        // A line that is being written has no end yet.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut base = None;
        for entry in IntervalLogIterator::new(&text[..whole]) {
            match entry.unwrap() {
                LogEntry::BaseTime(time) => base = Some(UNIX_EPOCH + time),
                LogEntry::StartTime(_) => {}
                LogEntry::Interval(line) => lines.push(Line {
                    tag: line.tag().unwrap().as_str().to_owned(),
                    start: base.unwrap() + line.start_timestamp(),
                    length: line.duration(),
                    count: histogram_log::decode(line.encoded_histogram()).unwrap().len(),
                }),
            }
        }
    }
    lines
}

fn counts(folder: &Path) -> Counts {
    lines(folder).into_iter().fold(Counts::new(), |mut counts, line| {
        let (_thread, measure) = line.tag.split_once('/').unwrap();
        *counts.entry(measure.to_owned()).or_default() += line.count;
        counts
    })
}

fn without_handshakes(mut counts: Counts) -> Counts {
    counts.remove("handshake");
    counts
}

#[tokio::test]
async fn sigusr1_dumps_what_sessions_left_and_nothing_twice() {
    let begun = SystemTime::now();
    let setting = Setting::start(SIGNAL_ONLY);
    let folder = setting.process.histogram_folder();
    let _pairs = setting.sessions(3).await;
    assert_eq!(files(&folder), Vec::<PathBuf>::new(), "dumped without being asked");
    until("all of it is dumped", || {
        // The completion of a send may be noticed after its bytes arrived.
        setting.process.dump_histograms();
        without_handshakes(counts(&folder)) == expected(3)
    })
    .await;
    assert_eq!(counts(&folder)["handshake"], setting.handshakes());

    let before = counts(&folder);
    let first_lines = lines(&folder);
    let mut refused = dial(setting.process.port.address(), &setting.tls).await;
    assert_eq!(refused.ask("GET / HTTP/1.1\r\n\r\n").await.code(), Code::NotFound);
    setting.process.dump_histograms();
    until("the next dump is there", || counts(&folder) != before).await;
    let mut after = before;
    *after.get_mut("handshake").unwrap() += 1;
    assert_eq!(counts(&folder), after);

    let all = lines(&folder);
    let threads: Vec<_> = all.iter().map(|line| line.tag.split_once('/').unwrap().0).collect();
    assert!(threads.iter().all(|t| ["control", "lobby-0", "relay-0"].contains(t)), "{threads:?}");
    assert_eq!(files(&folder).len(), 1);
    // Intervals follow one another. Times in a log are in milliseconds.
    let rounding = Duration::from_millis(2);
    assert!(all[0].start + rounding >= begun && all[0].start <= SystemTime::now());
    let (previous, last) = (first_lines.last().unwrap(), all.last().unwrap());
    assert!(last.start + rounding >= previous.start + previous.length, "{previous:?} {last:?}");
    assert!(last.start + last.length <= SystemTime::now() + rounding);
}

#[tokio::test]
async fn the_timer_dumps_without_being_asked() {
    let setting = Setting::start("[gateway.histograms]\ninterval_ms = 1000");
    let folder = setting.process.histogram_folder();
    let _pairs = setting.sessions(2).await;
    let dumped = || without_handshakes(counts(&folder)) == expected(2);
    until("all of it is dumped", dumped).await;
    assert!(lines(&folder).iter().all(|line| line.length >= Duration::from_secs(1)));
}

#[tokio::test]
async fn what_was_measured_until_the_end_is_dumped() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("elsewhere");
    let mut setting =
        Setting::start(&format!("shutdown_grace_ms = 100\n{SIGNAL_ONLY}\nfolder = {folder:?}"));
    let pairs = setting.sessions(2).await;
    let handshakes = setting.handshakes();
    setting.process.terminate();
    assert!(setting.process.exit().await.success(), "{}", setting.process.log());
    drop(pairs);
    let mut counts = counts(&folder);
    assert_eq!(counts["handshake"], handshakes);
    // The end of a session is sent too: close_notify, to both.
    for way in ["relay_up", "relay_down"] {
        assert!((2 * ROUNDS..=2 * ROUNDS + 2).contains(&counts[way]), "{counts:?}");
        counts.insert(way.into(), 2 * ROUNDS);
    }
    assert_eq!(without_handshakes(counts), expected(2));
}

#[tokio::test]
async fn old_logs_go_so_that_the_disk_does_not_fill() {
    let setting = Setting::start(&format!("{SIGNAL_ONLY}\nfile_bytes_max = 4096\nfiles_max = 2"));
    let folder = setting.process.histogram_folder();
    let _pairs = setting.sessions(1).await;
    setting.process.dump_histograms();
    until("the first dump is there", || !files(&folder).is_empty()).await;
    let first = files(&folder).remove(0);
    while first.exists() {
        let mut refused = dial(setting.process.port.address(), &setting.tls).await;
        assert_eq!(refused.ask("GET / HTTP/1.1\r\n\r\n").await.code(), Code::NotFound);
        let newest = || {
            let newest = files(&folder).pop()?;
            Some((newest.metadata().ok()?.len(), newest))
        };
        let before = newest();
        setting.process.dump_histograms();
        until("the next dump is there", || newest() != before).await;
    }
    until("the oldest have gone", || files(&folder).len() <= 2).await;
    for file in files(&folder) {
        assert!(file.metadata().unwrap().len() <= 4_096, "{file:?}");
    }
}

/// `ringway ctl histograms --json`, as counts.
fn merged(arguments: &[&Path]) -> (Counts, Value) {
    let output = ringway().args(["ctl", "--json", "histograms"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut counts = Counts::new();
    for one in answer["measured"].as_array().unwrap() {
        let values = histogram_log::decode(one["histogram"].as_str().unwrap()).unwrap();
        assert_eq!(one["us"]["count"], values.len());
        assert_eq!(one["us"]["p99"], values.value_at_quantile(0.99));
        if !values.is_empty() {
            counts.insert(one["measure"].as_str().unwrap().to_owned(), values.len());
        }
    }
    assert_eq!(answer["up_us"]["count"], counts.get("relay_up").copied().unwrap_or(0));
    (counts, answer)
}

#[tokio::test]
async fn gateways_and_their_logs_are_merged() {
    let setting = Setting::start(SIGNAL_ONLY);
    let (ca, url) = (&setting.ca, setting.broker.url());
    let other = GatewayProcess::start_as("gw-other", ca, &url, DESCRIPTORS, SIGNAL_ONLY);
    let _pairs = setting.sessions(1).await;
    let _more = sessions(&other, &setting.broker, &setting.tls, 2).await;

    let flag = Path::new("--socket");
    let (one, two) = (setting.process.admin_socket(), other.admin_socket());
    let probes = ["probe_rtt", "place", "answer"];
    let of_sessions = |mut counts: Counts| {
        counts.retain(|name, _| !probes.contains(&name.as_str()));
        without_handshakes(counts)
    };
    until("both gateways have noticed every send", || {
        of_sessions(merged(&[flag, &one, flag, &two]).0) == expected(3)
    })
    .await;

    for (process, sessions) in [(&setting.process, 1), (&other, 2)] {
        let folder = process.histogram_folder();
        until("all of it is dumped", || {
            process.dump_histograms();
            of_sessions(counts(&folder)) == expected(sessions)
        })
        .await;
    }
    let logs: Vec<_> = [&setting.process, &other]
        .into_iter()
        .flat_map(|process| files(&process.histogram_folder()))
        .collect();
    let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
    assert_eq!(of_sessions(merged(&logs).0), expected(3));
    // A gateway and the other one's log.
    assert_eq!(of_sessions(merged(&[flag, &one, logs[1]]).0), expected(3));
}

#[tokio::test]
async fn people_see_a_table_and_a_drawing_without_colours_in_a_pipe() {
    let setting = Setting::start(SIGNAL_ONLY);
    let _pairs = setting.sessions(2).await;
    let socket = setting.process.admin_socket();
    let output = ringway().args(["ctl", "histograms", "--socket"]).arg(&socket).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("MEASURE "), "{text}");
    assert!(text.contains("\nrelay_down "), "{text}");
    assert!(text.contains('█') && !text.contains('\x1b'), "{text}");
}

#[tokio::test]
async fn what_is_no_log_fails_and_says_which() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("notes.hlog");
    std::fs::write(&file, "buy milk\n").unwrap();
    let output = ringway().args(["ctl", "histograms"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("notes.hlog") && said.contains("line 1"), "{said}");
}
