//! The broker's directory: keys in files that only it may read.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why the state directory is of no use.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {error}; check state_dir, its owner and the free space")]
pub struct StateError {
    action: &'static str,
    path: PathBuf,
    error: std::io::Error,
}

/// `state_dir`, which exists and is ours.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory and makes it (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| StateError { action: "create", path: path.into(), error })?;
        Ok(Self { path: path.into() })
    }

    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file, `None` when there is none.
    ///
    /// # Errors
    /// When there is one and it cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let path = self.file(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError { action: "read", path, error }),
        }
    }

    /// Writes a file of mode 0600 so that it is there whole or not at all,
    /// also after a power cut.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let half_written = self.file(&format!("{name}.new"));
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&half_written)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&half_written, &path)?;
            std::fs::File::open(&self.path)?.sync_all()
        };
        write().map_err(|error| StateError { action: "write", path: path.clone(), error })
    }
}
