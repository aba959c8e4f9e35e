//! The head of a gateway's answer to a relay request.

/// What `Upgrade` says on both sides.
pub const PROTOCOL: &str = "ringway-relay";

/// A longer head is refused.
pub const HEAD_LENGTH_MAX: usize = 16 * 1024;

const HEADERS_MAX: usize = 64;

/// A complete head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `101`: what follows the head is the session.
    Switched { head_length: usize },
    /// Anything else: what follows is a body that says why.
    Refused { head_length: usize, status: u16, body_length: Option<usize> },
}

/// Reads a head from the front of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer>, String> {
    parse_switch(bytes, PROTOCOL)
}

/// As [`parse`], where another protocol is to be switched to.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn parse_switch(bytes: &[u8], protocol: &str) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("not an HTTP answer ({error})")),
    };
    if head_length > HEAD_LENGTH_MAX {
        return Err(format!("its head is longer than {HEAD_LENGTH_MAX} bytes"));
    }
    let status = response.code.unwrap_or_default();
    let value = |name: &str| {
        let header = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::trim)
    };
    if status != 101 {
        let body_length = match value("content-length") {
            Some(text) => {
                Some(text.parse().map_err(|_| "its content-length is no number".to_owned())?)
            }
            None => None,
        };
        return Ok(Some(Answer::Refused { head_length, status, body_length }));
    }
    match value("upgrade") {
        Some(switched) if switched.eq_ignore_ascii_case(protocol) => {
            Ok(Some(Answer::Switched { head_length }))
        }
        _ => Err(format!("it switches to something else than {protocol}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SWITCHED: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nUPGRADE: Ringway-Relay\r\n\r\n";

    #[test]
    fn a_switch_is_seen_at_its_last_byte_and_not_before() {
        for cut in 0..SWITCHED.len() {
            assert_eq!(parse(&SWITCHED[..cut]), Ok(None), "{cut}");
        }
        let with_more = [SWITCHED, b"RDP"].concat();
        assert_eq!(parse(&with_more), Ok(Some(Answer::Switched { head_length: SWITCHED.len() })));
    }

    #[test]
    fn other_protocols_and_other_answers_are_told_apart() {
        assert!(parse(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-OpenSSH\r\n").is_err());
        assert!(parse(b"HTTP/1.1 400 x\r\ncontent-length: many\r\n\r\n").is_err());
        assert_eq!(
            parse(b"HTTP/1.1 409 Conflict\r\nContent-Length: 12\r\n\r\n"),
            Ok(Some(Answer::Refused { head_length: 45, status: 409, body_length: Some(12) }))
        );
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_switches(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let switched = matches!(parse(&bytes), Ok(Some(Answer::Switched { .. })));
            prop_assert!(!switched);
        }
    }
}
