//! Encodes and decodes. Bytes in, values out; no I/O.

pub mod admin;
pub mod arm;
pub mod channel;
pub mod enroll;
pub mod feed;
pub mod http_head;
pub mod markup;
pub mod oidc;
pub mod rdp_file;
pub mod rdp_signature;
pub mod relay_answer;
pub mod tswp;
pub mod x224;
