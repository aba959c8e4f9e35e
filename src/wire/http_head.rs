//! HTTP/1.1 as far as a gateway's greeting needs it: one request head in, one
//! answer out. Parsing is httparse's; the limits and the meaning are here.

use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use crate::core::codes::{Code, Refusal};
use crate::core::secret::Secret;
use crate::wire::arm::{RefusalBody, STOCK_HOST_STARTING};

/// Header lines in one request.
const HEADERS_MAX: usize = 64;

/// The one method whose body may come in chunks: the IN channel of an RD Gateway
/// client (MS-TSGU 3.3.5.1).
pub const CHUNKED_METHOD: &str = "RDG_IN_DATA";

/// A request head, as far as it is looked at. Headers and query, which carry
/// tokens and tickets, are not shown and erased when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// What follows the question mark.
    query: Zeroizing<String>,
    headers: Vec<(String, Zeroizing<String>)>,
    /// Bytes that the head takes, blank line included.
    pub length: usize,
    pub content_length: usize,
    /// The body comes in chunks, and `content_length` is 0.
    pub is_chunked: bool,
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
            query: Zeroizing::new(query.to_owned()),
            headers,
            length,
            content_length: 0,
            is_chunked: false,
        };
        // RFC 9112 6.3: a length given twice, or a transfer coding that is not
        // understood, leaves the end of the request open to interpretation.
        // One kind of request is understood in chunks.
        let mut lengths = head.headers.iter().filter(|(name, _)| name == "content-length");
        head.content_length = match (lengths.next(), lengths.next()) {
            (None, _) => 0,
            (Some((_, value)), None) if value.bytes().all(|b| b.is_ascii_digit()) => {
                value.parse().map_err(|_| Code::RequestMalformed)?
            }
            _ => return Err(Code::RequestMalformed),
        };
        let mut codings = head.headers.iter().filter(|(name, _)| name == "transfer-encoding");
        head.is_chunked = match (codings.next(), codings.next()) {
            (None, _) => false,
            (Some((_, coding)), None)
                if coding.eq_ignore_ascii_case("chunked")
                    && head.method == CHUNKED_METHOD
                    && head.header("content-length").is_none() =>
            {
                true
            }
            _ => return Err(Code::RequestMalformed),
        };
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

    /// The bearer token of a request whose client puts it into the query, as
    /// `ClmTk=Bearer%20…`, instead of or besides the header.
    #[must_use]
    pub fn bearer_anywhere(&self) -> Option<Secret> {
        let in_query = || Some(bearer_token(self.query_parameter("ClmTk")?.expose())?.into());
        self.bearer().map(Secret::from).or_else(in_query)
    }

    /// What follows the question mark.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The first query parameter of this name, percent-decoded (RFC 3986 2.1).
    /// `None` also when it cannot be decoded.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<Secret> {
        let parameters = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = parameters.into_iter().find(|(given, _)| *given == name)?;
        percent_decoded(value)
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
    answer_because(status, reason_phrase(status), body, extra_headers)
}

fn answer_because(
    status: u16,
    reason: &str,
    body: Option<&str>,
    extra_headers: &[(&str, &str)],
) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
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
    refusal_as(refusal, facts.http_status, reason_phrase(facts.http_status), facts.name)
}

/// The same for a stock client that asks for a place. It knows one code, which
/// makes it ask again.
#[must_use]
pub fn stock_refusal(refusal: &Refusal) -> Vec<u8> {
    let facts = refusal.code.facts();
    match refusal.code {
        Code::HostStarting => refusal_as(refusal, 400, facts.advice, STOCK_HOST_STARTING),
        // The reason is all that FreeRDP shows of it.
        _ => refusal_as(refusal, facts.http_status, facts.advice, facts.name),
    }
}

fn refusal_as(refusal: &Refusal, status: u16, reason: &str, code: &str) -> Vec<u8> {
    let facts = refusal.code.facts();
    let body = RefusalBody {
        code: code.to_owned(),
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
    match status {
        401 => headers.push(("WWW-Authenticate", "Bearer")),
        // RFC 6455 4.4: which version of WebSocket would do.
        426 => headers.push(("Sec-WebSocket-Version", "13")),
        _ => {}
    }
    answer_because(status, reason, Some(&body), &headers)
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

fn percent_decoded(text: &str) -> Option<Secret> {
    let mut parts = text.split('%');
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let mut byte = [0];
        hex::decode_to_slice(digits, &mut byte).ok()?;
        bytes.extend(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    std::str::from_utf8(&bytes).ok().map(Secret::from)
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
        assert_eq!(head.query_parameter("x"), Some("1".into()));
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
    fn a_token_in_the_query_is_found_and_not_shown() {
        let head = complete(
            "GET /wst/desk?place=rw1.a&ClmTk=Bearer%20s.e+c/r=t%2F&X-MS-User-Agent=FreeRDP%2F3.0 \
             HTTP/1.1\r\n\r\n",
        );
        assert_eq!(head.path, "/wst/desk");
        assert_eq!(head.bearer(), None);
        assert_eq!(head.bearer_anywhere(), Some("s.e+c/r=t/".into()));
        assert_eq!(head.query_parameter("place"), Some("rw1.a".into()));
        assert_eq!(head.query_parameter("Place"), None);
        assert!(!format!("{head:?}").contains("s.e+c"), "a token in a log");

        let both =
            complete("GET /?ClmTk=Bearer%20query HTTP/1.1\r\nAuthorization: Bearer head\r\n\r\n");
        assert_eq!(both.bearer_anywhere(), Some("head".into()));
        for bad in
            ["ClmTk=Basic%20x", "ClmTk=Bearer%2", "ClmTk=%ff", "ClmTk=Bearer%zzx", "ClmTk", ""]
        {
            assert_eq!(
                complete(&format!("GET /?{bad} HTTP/1.1\r\n\r\n")).bearer_anywhere(),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn chunks_are_for_the_in_channel_alone() {
        let head = |method: &str, rest: &str| {
            let text = format!("{method} / HTTP/1.1\r\nTransfer-Encoding: {rest}\r\n\r\n");
            match RequestHead::parse(text.as_bytes(), 1_000)? {
                HeadStatus::Complete(head) => Ok(head.is_chunked),
                HeadStatus::Partial => panic!("{text:?}"),
            }
        };
        assert_eq!(head("RDG_IN_DATA", "Chunked"), Ok(true));
        for (method, rest) in [
            ("RDG_OUT_DATA", "chunked"),
            ("POST", "chunked"),
            ("RDG_IN_DATA", "gzip, chunked"),
            ("RDG_IN_DATA", "identity"),
            ("RDG_IN_DATA", "chunked\r\nTransfer-Encoding: chunked"),
            ("RDG_IN_DATA", "chunked\r\nContent-Length: 0"),
        ] {
            assert_eq!(head(method, rest), Err(Code::RequestMalformed), "{method} {rest}");
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

    #[test]
    fn a_stock_client_is_told_in_its_words_that_its_host_starts() {
        let starting = Refusal::with_detail(Code::HostStarting, "host-1 is told to start");
        let text = String::from_utf8(stock_refusal(&starting)).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["Code"], STOCK_HOST_STARTING);
        assert!(json["Message"].as_str().unwrap().contains("being started"), "{json}");
        let body: RefusalBody = serde_json::from_str(body).unwrap();
        assert_eq!((body.number, body.refusal), (4010, starting));
        let full = Code::PoolFull.into();
        let (shown, usual) = (stock_refusal(&full), refusal(&full));
        let text = String::from_utf8(shown).unwrap();
        let (status, rest) = text.split_once("\r\n").unwrap();
        assert_eq!(status, format!("HTTP/1.1 503 {}", full.code.facts().advice));
        assert!(usual.ends_with(rest.as_bytes()));
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
