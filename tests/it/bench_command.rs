//! `ringway bench` as an operator runs it: against a gateway of its own, and
//! through relays that damage what they carry.

use std::process::Output;

use serde_json::Value;

use crate::support::faulty_relay::{self, Fault};
use crate::support::programs::{ringway, said};
use crate::support::wait::free_address;

const FAULTS_FOUND: Option<i32> = Some(3);

fn bench(arguments: &str) -> (Output, Value) {
    let mut command = ringway();
    command.arg("bench").args(arguments.split_whitespace()).arg("--json");
    let output = command.env("RINGWAY_LOG", "warn").output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    (output, report)
}

/// One session through a relay with this fault; the first fault that is found.
fn found_through(fault: Fault) -> String {
    let sink = free_address();
    let relay = faulty_relay::start(sink, fault);
    let (output, report) = bench(&format!(
        "relay --profile bulk --sessions 1 --seconds 0.3 --warm-up-seconds 0 \
         --through tcp://{relay} --sink tcp://{sink}"
    ));
    let faults = report["faults"].as_array().unwrap();
    let expected = if faults.is_empty() { Some(0) } else { FAULTS_FOUND };
    assert_eq!(output.status.code(), expected, "{}", said(&output));
    faults.first().and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[test]
fn every_byte_is_compared_and_the_first_wrong_one_is_named() {
    assert_eq!(found_through(Fault::None), "");
    let wrong = "session 0 (Live): the byte at offset 100000 down is wrong";
    assert_eq!(found_through(Fault::Turned(100_000)), wrong);
    assert_eq!(found_through(Fault::Lost(100_000)), wrong);
    assert!(found_through(Fault::Doubled(99_999)).ends_with("offset 100000 down is wrong"));
    let cut = found_through(Fault::Cut(100_000));
    assert!(cut.contains("session 0 (Live)") && cut.contains("100000 down"), "{cut}");
}

#[test]
fn step11_a_gateway_of_its_own_carries_a_mix_of_users() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("bench.hlog");
    let (output, report) = bench(&format!(
        "relay --mix word=1,web=1 --sessions 4 --stalled 1 --storm 20 --seconds 1 \
         --warm-up-seconds 0.2 --hlog {}",
        log.display()
    ));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        (&report["target"], &report["profile"]),
        (&"ringway".into(), &"word=1,web=1".into())
    );
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or(-1.0);
    for pointer in [
        "/messages/up",
        "/messages/down",
        "/process/cpu_s",
        "/cpu_us_per_message",
        "/latency_us/up/p50",
        "/handshakes/count",
        "/process/rss_bytes/during",
    ] {
        assert!(number(pointer) > 0.0, "{pointer} in {report}");
    }
    assert_eq!(number("/verified_bytes"), number("/bytes/up") + number("/bytes/down"));
    assert_eq!(
        number("/process/descriptors/before"),
        number("/process/descriptors/after"),
        "the gateway keeps descriptors"
    );

    let log = std::fs::read_to_string(log).unwrap();
    for tag in ["up", "down", "handshake"] {
        assert!(log.contains(&format!("\nTag={tag},")), "no {tag} in {log}");
    }
}

/// Each in its framing, both ways, with a client that does not read.
#[test]
fn step11_clients_may_come_as_stock_clients_do() {
    for leg in ["raw", "websocket", "tsgu", "tsgu-http"] {
        let (output, report) = bench(&format!(
            "relay --leg {leg} --profile bulk --direction both --sessions 3 --stalled 1 \
             --seconds 0.5 --warm-up-seconds 0.1"
        ));
        assert!(output.status.success(), "{leg}: {}", said(&output));
        assert_eq!(report["leg"], leg);
        for way in ["up", "down"] {
            assert!(report["bytes"][way].as_u64() > Some(0), "{leg} {way}: {report}");
        }
        let descriptors = &report["process"]["descriptors"];
        assert_eq!(descriptors["before"], descriptors["after"], "{leg}: {report}");
    }
}

#[test]
fn stock_clients_come_and_go_and_see_that_they_are_ended() {
    for leg in ["websocket", "tsgu", "tsgu-http"] {
        let (output, report) = bench(&format!(
            "sessions --leg {leg} --sessions 20 --rate 50 --hold-seconds 0.2 --profile word"
        ));
        assert!(output.status.success(), "{leg}: {}", said(&output));
        assert_eq!(report["process"]["output_slots"]["after"], 0, "{leg}: {report}");
        let (output, report) = bench(&format!(
            "disconnect --leg {leg} --sessions 6 --end 2 --rounds 2 --warm-up-seconds 0.2"
        ));
        assert!(output.status.success(), "{leg}: {}", said(&output));
        assert_eq!(report["close_us"]["count"], 4, "{leg}: {report}");
    }
}

#[test]
fn sessions_that_come_and_go_leave_nothing_behind() {
    let (output, report) =
        bench("sessions --sessions 30 --concurrent 10 --rate 50 --hold-seconds 0.2 --profile word");
    assert!(output.status.success(), "{}", said(&output));
    let descriptors = &report["process"]["descriptors"];
    assert_eq!(descriptors["before"], descriptors["after"], "{report}");
    assert!(descriptors["during"].as_u64() > descriptors["before"].as_u64(), "{report}");
    assert_eq!(report["process"]["output_slots"]["after"], 0, "{report}");
}

#[test]
fn handshakes_are_counted_by_relay_cpu() {
    let (output, report) = bench("handshake --seconds 0.5 --warm-up-seconds 0.2 --concurrent 4");
    assert!(output.status.success(), "{}", said(&output));
    let handshakes = &report["handshakes"];
    assert!(handshakes["count"].as_u64() > Some(0) && handshakes["failed"] == 0, "{report}");
    assert!(handshakes["per_s_per_core"].as_f64() > Some(0.0), "{report}");
}

#[test]
fn what_cannot_be_run_is_said() {
    let output = ringway().args(["bench", "sessions", "--profile", "ping"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("use bench relay"), "{}", said(&output));
    let output = ringway().args(["bench", "relay", "--mix", "solitaire=1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("no profile"), "{}", said(&output));
}

#[test]
fn orders_that_end_sessions_are_timed_until_the_clients_see_it() {
    let (output, report) =
        bench("disconnect --sessions 12 --end 3 --rounds 2 --warm-up-seconds 0.2");
    assert!(output.status.success(), "{}", said(&output));
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
    assert_eq!(number("/sessions"), Some(12));
    assert_eq!(number("/close_us/count"), Some(6), "{report}");
    assert_eq!(number("/answer_us/count"), Some(2), "{report}");
    assert!(number("/close_us/p50") > Some(0), "{report}");
}
