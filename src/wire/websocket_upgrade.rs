//! From HTTP to WebSocket (RFC 6455 4.2), for clients that keep to the letter of
//! it and for those that do not.

use super::http_head::RequestHead;
use super::websocket::accept_key;
use crate::core::codes::Code;

/// What `Upgrade` says.
pub const PROTOCOL: &str = "websocket";

/// The one subprotocol that is agreed to, when it is offered: clients on iOS
/// want to hear of it.
const SUBPROTOCOL: &str = "binary";

/// The answer that makes the connection a WebSocket. Whatever extensions are
/// offered, none is agreed to.
///
/// # Errors
/// [`Code::UpgradeRequired`] for another version than 13,
/// [`Code::RequestMalformed`] without a key or with a body. A key is any text:
/// FreeRDP 2.11 sends one that is not base64.
pub fn accept(head: &RequestHead) -> Result<Vec<u8>, Code> {
    if head.header("sec-websocket-version") != Some("13") {
        return Err(Code::UpgradeRequired);
    }
    let key = head.header("sec-websocket-key").filter(|key| !key.is_empty());
    let key = key.filter(|_| head.content_length == 0).ok_or(Code::RequestMalformed)?;
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\
         Sec-WebSocket-Accept: {}\r\n",
        accept_key(key)
    );
    let offered = head.header("sec-websocket-protocol").unwrap_or_default();
    if offered.split(',').any(|offered| offered.trim() == SUBPROTOCOL) {
        answer.push_str("Sec-WebSocket-Protocol: ");
        answer.push_str(SUBPROTOCOL);
        answer.push_str("\r\n");
    }
    answer.push_str("\r\n");
    Ok(answer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http_head::HeadStatus;

    fn accepted(headers: &str) -> Result<String, Code> {
        let text = format!("GET /wst/desk HTTP/1.1\r\n{headers}\r\n");
        match RequestHead::parse(text.as_bytes(), 1_000)? {
            HeadStatus::Complete(head) => {
                accept(&head).map(|answer| String::from_utf8(answer).unwrap())
            }
            HeadStatus::Partial => panic!("{text:?}"),
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let answer = accepted(
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\n",
        );
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        for absent in ["Extensions", "Protocol:", "Version"] {
            assert!(!answer.contains(absent), "{absent} in {answer}");
        }
    }

    #[test]
    fn a_key_is_any_text_and_the_one_subprotocol_is_echoed() {
        let answer = accepted(
            "Sec-Websocket-Version: 13\r\nSec-Websocket-Key: [\\]^_@ABCDEFGHI\r\n\
             Sec-WebSocket-Protocol: soap, binary\r\n",
        );
        assert!(answer.unwrap().contains("\r\nSec-WebSocket-Protocol: binary\r\n"));
    }

    #[test]
    fn what_is_no_websocket_is_refused() {
        for (headers, code) in [
            ("Sec-WebSocket-Key: a\r\n", Code::UpgradeRequired),
            ("Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: a\r\n", Code::UpgradeRequired),
            ("Sec-WebSocket-Version: 13\r\n", Code::RequestMalformed),
            ("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key:\r\n", Code::RequestMalformed),
            (
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\nContent-Length: 1\r\n",
                Code::RequestMalformed,
            ),
        ] {
            assert_eq!(accepted(headers), Err(code), "{headers}");
        }
    }
}
