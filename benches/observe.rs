//! What measuring costs where it is done for every send.

use divan::Bencher;
use ringway::observe::histograms::latency;

#[divan::bench]
fn record_one_latency(bencher: Bencher) {
    let mut histogram = latency();
    let mut added_us = 1;
    bencher.bench_local(|| {
        // Latencies as they come: from one to a thousand microseconds.
        added_us = added_us * 29 % 1_009;
        histogram.saturating_record(added_us);
    });
}
