//! A certificate and its key: both, or none of them.

use std::path::PathBuf;

use super::Findings;

pub(super) fn check_pair(
    found: &mut Findings,
    role: &str,
    certificate: Option<&PathBuf>,
    key: Option<&PathBuf>,
) {
    let [certificate_key, key_key] =
        ["tls_certificate", "tls_key"].map(|name| format!("{role}.{name}"));
    if !found.is_sound(&certificate_key) || !found.is_sound(&key_key) {
        return;
    }
    let remedy = "set both tls_certificate and tls_key, or none of them";
    match (certificate, key) {
        (Some(_), None) => found.add(certificate_key, "has no tls_key", remedy),
        (None, Some(_)) => found.add(key_key, "has no tls_certificate", remedy),
        _ => {}
    }
}
