//! What went wrong, in numbers that clients show (MS-TSGU 2.2.6).
//!
//! Two forms, not to be mixed up: FreeRDP looks at the sign only and takes a bare
//! code in a response for success.

pub const SUCCESS: u32 = 0;

/// In responses: whole HRESULTs.
pub const INTERNAL_ERROR: u32 = 0x8007_59D8;
pub const RESOURCE_DENIED: u32 = 0x8007_59DA;
pub const ACCESS_POLICY_DENIED: u32 = 0x8007_59DB;
pub const TARGET_CONNECT_FAILED: u32 = 0x8007_59DD;
pub const CAPABILITY_MISMATCH: u32 = 0x8007_59E9;
pub const MALFORMED_COOKIE: u32 = 0x8007_59F7;
pub const COOKIE_DENIED: u32 = 0x8007_59F8;
pub const AUTHENTICATION_METHOD: u32 = 0x8007_59F9;
pub const LOGON_DENIED: u32 = 0x8009_030C;

/// In a close channel packet: bare codes.
pub const CLOSE_TARGET_CLOSED: u32 = 0xA0;
pub const CLOSE_GRACEFUL: u32 = 0x4CA;
pub const CLOSE_ABORTED: u32 = 0x4D4;
pub const CLOSE_SESSION_TIMEOUT: u32 = 0x59F6;
pub const CLOSE_REAUTH_LOGON_FAILED: u32 = 0x59FA;
pub const CLOSE_REAUTH_POLICY: u32 = 0x59FB;
pub const CLOSE_REAUTH_RESOURCE: u32 = 0x59FC;
