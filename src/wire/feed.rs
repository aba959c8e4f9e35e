//! The feed as JSON (steps 1, 3 and 5), for our own clients.

use serde::{Deserialize, Serialize};

use crate::core::ids::ResourceId;

/// Bytes of a title that go into a file name: with an id and an ending it stays
/// below the 255 that file systems allow.
const STEM_BYTES_MAX: usize = 150;

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

/// `GET /api/feed` with a bearer token or a feed cookie (steps 3 to 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The one that resources belong to which name none.
    pub workspace: String,
    pub user: String,
    pub resources: Vec<FeedResource>,
    /// Those in which this user has something.
    #[serde(default)]
    pub workspaces: Vec<FeedWorkspace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedWorkspace {
    pub name: ResourceId,
    pub title: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Path of its feed for stock clients, on the same broker.
    pub feed_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedResource {
    pub id: ResourceId,
    pub title: String,
    #[serde(rename = "type")]
    pub kind: ResourceKind,
    /// Path on the same broker; the body is the signed file.
    pub rdp_path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<ResourceId>,
    /// Changes when the file does. Absent: not known at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResourceKind {
    Desktop,
    RemoteApp,
}

impl ResourceKind {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Desktop => "desktop",
            Self::RemoteApp => "application",
        }
    }
}

/// A file name without its ending, for people: the title, or the id where
/// nothing of the title is left. What could leave a directory, hide the file or
/// need quoting becomes a dash.
#[must_use]
pub fn file_stem(title: &str, id: &ResourceId) -> String {
    let mut cleaned: String = title
        .chars()
        .map(|c| if c.is_alphanumeric() || " ._()+-".contains(c) { c } else { '-' })
        .take(STEM_BYTES_MAX)
        .collect();
    while cleaned.len() > STEM_BYTES_MAX {
        cleaned.pop();
    }
    match cleaned.trim_matches([' ', '.', '-']) {
        "" => id.to_string(),
        stem => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_become_file_names_that_stay_where_they_are_put() {
        let id: ResourceId = "the-id".parse().unwrap();
        for (title, stem) in [
            ("Office desktop", "Office desktop"),
            ("../../etc/passwd", "etc-passwd"),
            ("a\r\nSet-Cookie: b\"; rm -rf 'c'", "a--Set-Cookie- b-- rm -rf -c"),
            ("日本語", "日本語"),
            ("", "the-id"),
            (" .. ", "the-id"),
            ("/", "the-id"),
        ] {
            assert_eq!(file_stem(title, &id), stem, "{title:?}");
        }
        assert!(file_stem(&"漢".repeat(300), &id).len() <= STEM_BYTES_MAX);
    }
}
