//! Encodes and decodes. Bytes in, values out; no I/O.

pub mod admin;
pub mod arm;
pub mod channel;
pub mod chunked;
pub mod enroll;
pub mod feed;
pub mod framing_error;
pub mod host_certificate;
pub mod http_head;
pub mod in_place;
pub mod markup;
pub mod oidc;
pub mod rdp_file;
pub mod rdp_signature;
pub mod rdp_stream;
pub mod rdsaad;
pub mod relay_answer;
pub mod resource_name;
pub mod tsgu;
pub mod tswp;
pub mod websocket;
pub mod websocket_upgrade;
pub mod x224;
