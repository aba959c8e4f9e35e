//! What a subscription wrote into its directory: which files are ours to
//! replace or remove, and what of the feed we have seen.
//!
//! One file per broker, so that several can share a directory. It is not
//! believed blindly: no entry leads out of the directory.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::config::state_dir::write_whole;
use crate::core::ids::ResourceId;
use crate::dial::Endpoint;
use crate::wire::feed::ResourceKind;

/// More than [`super::RESOURCES_MAX`] entries need.
const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What is known of one broker's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The feed's entity tag.
    pub(super) tag: Option<String>,
    pub(super) workspace: String,
    pub(super) user: String,
    pub(super) files: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) id: ResourceId,
    pub(super) title: String,
    #[serde(rename = "type")]
    pub(super) kind: ResourceKind,
    /// In the directory.
    pub(super) name: String,
    /// Of the file as we wrote it, in hex.
    pub(super) sha256: String,
    pub(super) revision: Option<String>,
}

impl Record {
    /// The record of an earlier time. Without one, or with one that cannot be
    /// read, everything is fetched.
    pub(super) fn read(out: &Path, broker: &Endpoint) -> Self {
        let path = path(out, broker);
        let mut record: Self = match read(&path) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "Cannot read what was stored before");
                Self::default()
            }
        };
        let all = record.files.len();
        record.files.retain(|entry| is_plain_name(&entry.name));
        if record.files.len() != all {
            record.tag = None;
        }
        record
    }

    pub(super) fn write(&self, out: &Path, broker: &Endpoint) -> io::Result<()> {
        write_whole(&path(out, broker), &serde_json::to_vec_pretty(self)?, None)
    }
}

/// Hidden, and named after the broker.
pub(super) fn path(out: &Path, broker: &Endpoint) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '-' };
    let broker: String = broker.authority().chars().map(plain).collect();
    out.join(format!(".ringway-{broker}.json"))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn read(path: &Path) -> io::Result<Record> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn is_plain_name(name: &str) -> bool {
    name.ends_with(".rdp") && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            id: "a".parse().unwrap(),
            title: "A".into(),
            kind: ResourceKind::Desktop,
            name: name.into(),
            sha256: sha256(b""),
            revision: None,
        }
    }

    #[test]
    fn a_record_leads_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let broker: Endpoint = "https://[::1]:8443".parse().unwrap();
        assert_eq!(Record::read(folder.path(), &broker), Record::default());
        let names = ["ok.rdp", "../up.rdp", "/etc/x.rdp", ".hidden.rdp", "x.txt", "a/b.rdp"];
        let record = Record {
            tag: Some("\"t\"".into()),
            files: names.map(entry).into(),
            ..Record::default()
        };
        record.write(folder.path(), &broker).unwrap();
        let read = Record::read(folder.path(), &broker);
        assert_eq!((read.files, read.tag), (vec![entry("ok.rdp")], None));
        let path = path(folder.path(), &broker);
        assert_eq!(path.file_name().unwrap(), ".ringway----1--8443.json");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Record::read(folder.path(), &broker), Record::default());
    }
}
