//! The feed as JSON (steps 1, 3 and 5), for our own clients.

use serde::{Deserialize, Serialize};

use crate::core::ids::ResourceId;

/// `GET /api/feed/discovery`, the only part that needs no token (step 1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    pub workspace: String,
    /// OIDC issuer; absent when only static tokens are accepted.
    pub issuer: Option<String>,
    pub client_id: Option<String>,
    pub audience: Option<String>,
    /// What to ask the issuer for.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// `GET /api/feed` with a bearer token (steps 3 to 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    pub workspace: String,
    pub user: String,
    pub resources: Vec<FeedResource>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedResource {
    pub id: ResourceId,
    pub title: String,
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    /// Path on the same broker; the body is the signed file.
    pub rdp_path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceKind {
    Desktop,
    RemoteApp,
}
