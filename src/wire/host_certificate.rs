//! What clients check of the certificate that a session host's RDP server shows.

use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// `2.5.4.3`, a common name.
const COMMON_NAME: &str = "2.5.4.3";
/// Of a name in the DNS; what is longer is none.
const NAME_LEN_MAX: usize = 253;

/// Under which name clients find this certificate right: `host` if it is one of
/// its names, otherwise the first of those, otherwise its common name (all that
/// Windows puts into its own). Clients that do not pin a certificate, FreeRDP
/// before 3.17.2, compare it with this name. `host` too if there is none.
#[must_use]
pub fn name_for_clients(der: &[u8], host: &str) -> String {
    Certificate::from_der(der)
        .ok()
        .and_then(|certificate| name_in(&certificate, host))
        .unwrap_or_else(|| host.to_owned())
}

fn name_in(certificate: &Certificate, host: &str) -> Option<String> {
    let tbs = &certificate.tbs_certificate;
    if let Ok(Some((_critical, names))) = tbs.get::<SubjectAltName>() {
        let names: Vec<_> = names.0.iter().filter_map(dns_name).collect();
        if names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return None;
        }
        if let Some(first) = names.iter().find(|name| is_usable(name)) {
            return Some((*first).to_owned());
        }
    }
    let attributes = tbs.subject.0.iter().flat_map(|set| set.0.iter());
    let common = attributes.filter(|one| one.oid.to_string() == COMMON_NAME);
    let texts = common.filter_map(|one| std::str::from_utf8(one.value.value()).ok());
    texts.map(str::to_owned).find(|name| is_usable(name))
}

fn dns_name(name: &GeneralName) -> Option<&str> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        _ => None,
    }
}

/// It is shown to users, and becomes part of addresses: a wildcard or a title
/// is no name of a host.
fn is_usable(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::name_for_clients;

    fn certificate(common: &str, names: &[&str]) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_hosts_own_name_is_kept_when_the_certificate_has_it() {
        assert_eq!(name_for_clients(&certificate("x", &["pc.corp", "host-1"]), "host-1"), "host-1");
        assert_eq!(name_for_clients(&certificate("x", &["pc.corp", "HOST-1"]), "host-1"), "host-1");
    }

    #[test]
    fn otherwise_the_first_name_of_a_host_in_it_counts() {
        let names = ["*.corp", "pc17.corp.example", "pc17"];
        assert_eq!(name_for_clients(&certificate("x", &names), "host-1"), "pc17.corp.example");
    }

    #[test]
    fn a_windows_hosts_own_certificate_has_a_common_name_only() {
        assert_eq!(name_for_clients(&certificate("DESKTOP-7", &[]), "host-1"), "DESKTOP-7");
    }

    #[test]
    fn what_is_no_name_of_a_host_is_not_told() {
        let titled = certificate("rcgen self signed cert", &["*.corp"]);
        assert_eq!(name_for_clients(&titled, "host-1"), "host-1");
        assert_eq!(name_for_clients(&certificate(&"a".repeat(254), &[]), "host-1"), "host-1");
        assert_eq!(name_for_clients(b"no certificate", "host-1"), "host-1");
    }
}
