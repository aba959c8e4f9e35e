//! `https://host:port`, checked once where it enters.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::ServerName;

use super::error::DialErrorKind;

/// Longer addresses are not looked at.
const TEXT_LENGTH_MAX: usize = 2_048;

/// The address of a gateway or a broker. A path behind the port is allowed and
/// ignored: what is asked for is decided by who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// A DNS name or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What goes into the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// `https://host:port` and this path, which starts with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// The name that the certificate must be for.
    ///
    /// # Errors
    /// Not for an endpoint that was parsed.
    pub fn server_name(&self) -> Result<ServerName<'static>, DialErrorKind> {
        ServerName::try_from(self.host.clone())
            .map_err(|error| DialErrorKind::Address { error: error.to_string() })
    }
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address of the form https://host:port: {reason}")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let fail = |reason| EndpointError { text: text.chars().take(100).collect(), reason };
        if text.len() > TEXT_LENGTH_MAX {
            return Err(fail("it is too long"));
        }
        let url = reqwest::Url::parse(text).map_err(|_| fail("it is not a URL"))?;
        if url.scheme() != "https" {
            return Err(fail("only https is spoken"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fail("a user name does not belong there"));
        }
        let host = url.host_str().ok_or_else(|| fail("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().ok_or_else(|| fail("it names no port"))?;
        if port == 0 || ServerName::try_from(host.as_str()).is_err() {
            return Err(fail("host or port cannot be dialled"));
        }
        Ok(Self { host, port })
    }
}

/// Whether a text is `https://host[:port]` and nothing else, so that a path can
/// be put behind it.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    let is_plain =
        |rest: &str| rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c));
    text.strip_prefix("https://").is_some_and(is_plain) && text.parse::<Endpoint>().is_ok()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_origin_has_nothing_behind_it() {
        for good in ["https://gw.example", "https://gw.example:443", "https://[::1]:8443"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "http://gw.example",
            "https://gw.example/",
            "https://gw.example/x",
            "https://u@gw.example",
            "https://gw.example:0",
            "https://gw.example:99999",
            "https://gw example",
            "https://:443",
            "https://gw.example#x",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn reads_names_addresses_and_default_ports() {
        let parse = |text: &str| text.parse::<Endpoint>().map(|e| (e.to_string(), e.host, e.port));
        assert_eq!(
            parse("https://Gw-1.Example").unwrap(),
            ("https://gw-1.example:443".into(), "gw-1.example".into(), 443)
        );
        assert_eq!(
            parse("https://[::1]:9443/relay/client").unwrap(),
            ("https://[::1]:9443".into(), "::1".into(), 9443)
        );
        assert_eq!(parse("https://127.0.0.1:1").unwrap().2, 1);
    }

    #[test]
    fn refuses_what_is_not_https_to_a_host() {
        for bad in
            ["gw:443", "http://gw", "https://", "https://u@gw", "https://gw:0", "https://a b"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// What ends up in a request head can never end a line of it.
        #[test]
        fn an_endpoint_holds_no_line_ends(text in "https://.{0,60}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert!(endpoint.authority().chars().all(|c| c.is_ascii_graphic()));
            }
        }
    }
}
