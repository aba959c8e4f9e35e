//! rustls' own client as the peer of our record layer.

use std::io::Write as _;

use super::*;

#[test]
fn data_flows_both_ways_under_every_suite() {
    for suite in ALL {
        let (mut client, mut ours) = joined(suite);
        let data = pattern(100_000);
        let mut sent = Vec::new();
        for chunk in data.chunks(10_000) {
            client.writer().write_all(chunk).unwrap();
            sent.extend(from_client(&mut client));
        }
        assert_eq!(open(&mut ours, &sent).unwrap().data, data, "{suite:?}");

        for len in [0, 1, 2, 15, 16, 17, 1000, MAX_PLAINTEXT_LEN] {
            let record = seal(&mut ours, &data[..len]);
            assert_eq!(to_client(&mut client, &record).unwrap(), data[..len], "{suite:?} {len}");
        }
    }
}
