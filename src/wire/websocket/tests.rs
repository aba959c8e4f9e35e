//! Frames as clients send them, and as they must not.

use super::*;
use crate::wire::in_place::InPlace;

#[test]
fn the_key_of_the_specification_is_accepted_as_it_says() {
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
fn the_masked_hello_of_the_specification_is_read() {
    // RFC 6455 5.7, as a binary frame.
    let mut bytes = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let mut input = InPlace::new(&mut bytes);
    assert_eq!(Decoder::new().decode(&mut input), Ok(None));
    assert_eq!(input.written(), 5);
    assert_eq!(&bytes[..5], b"Hello");
}
