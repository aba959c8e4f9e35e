//! What the broker's tests share.

use std::path::{Path, PathBuf};

/// A directory that is gone when the test is.
pub(super) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    pub(super) fn new() -> Self {
        let name = format!("ringway-{}", hex::encode(super::random_bytes::<8>().unwrap()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}
