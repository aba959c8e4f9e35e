//! HTTP/1.1 as far as a gateway's greeting needs it: one request head in, one
//! answer out. Parsing is httparse's; the limits and the meaning are here.

use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use crate::core::codes::{Code, Refusal};
use crate::wire::arm::RefusalBody;

/// Header lines in one request.
const HEADERS_MAX: usize = 64;

/// A request head, as far as it is looked at. Its headers, which carry tokens
/// and tickets, are not shown and erased when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    headers: Vec<(String, Zeroizing<String>)>,
    /// Bytes that the head takes, blank line included.
    pub length: usize,
    pub content_length: usize,
}

/// What is in a buffer that should hold a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadStatus {
    Complete(RequestHead),
    /// More bytes are needed.
    Partial,
}

impl RequestHead {
    /// Reads a head from the start of `bytes`, which may hold more than one
    /// request or less. `length_max` bounds the head, not the body.
    ///
    /// # Errors
    /// [`Code::RequestTooLarge`] and [`Code::RequestMalformed`].
    pub fn parse(bytes: &[u8], length_max: usize) -> Result<HeadStatus, Code> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= length_max => length,
            Ok(httparse::Status::Partial) if bytes.len() < length_max => {
                return Ok(HeadStatus::Partial);
            }
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Code::RequestTooLarge),
            Err(_) => return Err(Code::RequestMalformed),
        };
        let target = request.path.unwrap_or_default();
        let headers = request
            .headers
            .iter()
            .map(|h| {
                let value = std::str::from_utf8(h.value).map_err(|_| Code::RequestMalformed)?;
                Ok((h.name.to_ascii_lowercase(), Zeroizing::new(value.trim().to_owned())))
            })
            .collect::<Result<Vec<_>, Code>>()?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut head = Self {
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            length,
            content_length: 0,
        };
        // RFC 9112 6.3: a length given twice, or a transfer coding that is not
        // understood, leaves the end of the request open to interpretation.
        let mut lengths = head.headers.iter().filter(|(name, _)| name == "content-length");
        head.content_length = match (lengths.next(), lengths.next()) {
            (None, _) => 0,
            (Some((_, value)), None) if value.bytes().all(|b| b.is_ascii_digit()) => {
                value.parse().map_err(|_| Code::RequestMalformed)?
            }
            _ => return Err(Code::RequestMalformed),
        };
        if head.header("transfer-encoding").is_some() {
            return Err(Code::RequestMalformed);
        }
        Ok(HeadStatus::Complete(head))
    }

    /// The first header of this (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The bearer token, if there is one.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        bearer_token(self.header("authorization")?)
    }

    /// Whether the request asks to leave HTTP for `protocol` (RFC 9110 7.8).
    #[must_use]
    pub fn upgrades_to(&self, protocol: &str) -> bool {
        let connection = self.header("connection").unwrap_or_default();
        connection.split(',').any(|part| part.trim().eq_ignore_ascii_case("upgrade"))
            && self.header("upgrade").is_some_and(|u| u.eq_ignore_ascii_case(protocol))
    }
}

impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("headers", &self.headers.len())
            .finish_non_exhaustive()
    }
}

/// An answer with a JSON body (or none).
#[must_use]
pub fn answer(status: u16, body: Option<&str>, extra_headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
    for (name, value) in extra_headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let body = body.unwrap_or_default();
    if !body.is_empty() {
        head.push_str("Content-Type: application/json\r\nCache-Control: no-store\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n{body}", body.len());
    head.into_bytes()
}

/// The answer that leaves HTTP.
#[must_use]
pub fn switching_protocols(protocol: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    )
    .into_bytes()
}

/// A refusal; the connection closes after it.
#[must_use]
pub fn refusal(refusal: &Refusal) -> Vec<u8> {
    let facts = refusal.code.facts();
    let body = RefusalBody {
        code: facts.name.to_owned(),
        number: facts.number,
        message: refusal.to_string(),
        step: facts.step,
        refusal: refusal.clone(),
    };
    let body = serde_json::to_string(&body).unwrap_or_default();
    let mut headers = vec![("Connection", "close")];
    let retry_after;
    if let Some(ms) = refusal.retry_after_ms {
        retry_after = ms.div_ceil(1_000).to_string();
        headers.push(("Retry-After", &retry_after));
    }
    if facts.http_status == 401 {
        headers.push(("WWW-Authenticate", "Bearer"));
    }
    answer(facts.http_status, Some(&body), &headers)
}

const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 2.1).
#[must_use]
pub fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(text: &str) -> RequestHead {
        match RequestHead::parse(text.as_bytes(), 1_000) {
            Ok(HeadStatus::Complete(head)) => head,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_relay_request_is_understood() {
        let head = complete(
            "GET /relay/client?x=1 HTTP/1.1\r\nHost: gw\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: ringway-relay\r\nRingway-Ticket: rw1.a.b.c\r\n\r\nrest",
        );
        assert_eq!((head.method.as_str(), head.path.as_str()), ("GET", "/relay/client"));
        assert_eq!(head.query, "x=1");
        assert!(head.upgrades_to("ringway-relay") && !head.upgrades_to("websocket"));
        assert_eq!(head.header("ringway-ticket"), Some("rw1.a.b.c"));
        assert_eq!(head.bearer(), None);
        assert!(!format!("{head:?}").contains("rw1"), "a ticket in a log");
    }

    #[test]
    fn ambiguous_lengths_and_codings_are_refused() {
        for bad in [
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nbroken\r\n\r\n",
            "\u{16}\u{3}\u{1} garbage",
        ] {
            let verdict = RequestHead::parse(bad.as_bytes(), 1_000);
            assert_eq!(verdict, Err(Code::RequestMalformed), "{bad:?}");
        }
    }

    #[test]
    fn a_head_has_a_limit_complete_or_not() {
        let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1_000));
        assert_eq!(RequestHead::parse(long.as_bytes(), 1_000), Err(Code::RequestTooLarge));
        assert_eq!(
            RequestHead::parse(&long.as_bytes()[..1_000], 1_000),
            Err(Code::RequestTooLarge)
        );
        assert_eq!(RequestHead::parse(&long.as_bytes()[..999], 1_000), Ok(HeadStatus::Partial));
    }

    #[test]
    fn a_refusal_carries_code_and_advice() {
        let mut no = Refusal::with_detail(Code::PoolFull, "office");
        no.retry_after_ms = Some(1_500);
        let text = String::from_utf8(refusal(&no)).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        assert!(text.contains("Retry-After: 2\r\n"), "{text}");
        let body = text.split("\r\n\r\n").nth(1).unwrap();
        let body: RefusalBody = serde_json::from_str(body).unwrap();
        assert_eq!((body.number, body.refusal), (4003, no));
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_verdict(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = RequestHead::parse(&bytes, 1_000);
        }

        /// Wherever the head is cut, it is partial until it is whole.
        #[test]
        fn a_split_head_is_partial(cut in 0_usize..100) {
            let text = b"GET /probe HTTP/1.1\r\nHost: gw\r\n\r\n";
            let cut = cut % text.len();
            prop_assert_eq!(RequestHead::parse(&text[..cut], 1_000), Ok(HeadStatus::Partial));
        }
    }
}
