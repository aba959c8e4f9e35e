//! The directory of a role: keys in files that only it may read.
//!
//! Root writes here for a service that owns the directory. So nothing here
//! goes through a link that the service could have laid: files are made new,
//! and owner and mode are changed on the open file, not by its name.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
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
        write_whole(&path, content, None).map_err(|error| StateError {
            action: "write",
            path,
            error,
        })
    }

    /// The same by root for a service with an account of its own: the file
    /// belongs to whom the directory belongs.
    ///
    /// # Errors
    /// When it cannot be written or given away.
    pub fn write_for_owner(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let write = || write_whole(&path, content, Some(&File::open(&self.path)?.metadata()?));
        write().map_err(|error| StateError { action: "write", path: path.clone(), error })
    }

    /// Closes the directory to everybody but its owner.
    ///
    /// # Errors
    /// When it is not ours to close.
    pub fn make_private(&self) -> Result<(), StateError> {
        let close = || File::open(&self.path)?.set_permissions(Permissions::from_mode(0o700));
        close().map_err(|error| StateError { action: "protect", path: self.path.clone(), error })
    }
}

/// Replaces a file by one of mode 0600 that is there whole or not at all.
///
/// # Errors
/// When it cannot be written, or not be given to `owner`.
pub fn write_whole(path: &Path, content: &[u8], owner: Option<&Metadata>) -> io::Result<()> {
    let mut half_written = path.as_os_str().to_owned();
    half_written.push(".new");
    let half_written = PathBuf::from(half_written);
    match std::fs::remove_file(&half_written) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made new or not at all (O_EXCL): not through a link, nor into a file that
    // somebody has open.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half_written)?;
    if let Some(owner) = owner {
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&half_written, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_lies_in_wait_is_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let victim = temporary.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        std::fs::set_permissions(&victim, Permissions::from_mode(0o644)).unwrap();
        let dir = StateDir::open(&temporary.path().join("state")).unwrap();
        for name in ["key", "key.new"] {
            std::os::unix::fs::symlink(&victim, dir.file(name)).unwrap();
        }
        dir.write("key", b"secret").unwrap();
        dir.write_for_owner("other", b"secret").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(victim.metadata().unwrap().mode() & 0o777, 0o644);
        for name in ["key", "other"] {
            let written = std::fs::symlink_metadata(dir.file(name)).unwrap();
            assert!(written.is_file() && written.mode() & 0o777 == 0o600, "{written:?}");
            assert_eq!(dir.read(name).unwrap().unwrap().as_slice(), b"secret");
        }
    }

    #[test]
    fn who_reads_a_half_written_file_does_not_see_the_next_one() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temporary.path()).unwrap();
        std::fs::write(dir.file("key.new"), "stale").unwrap();
        let mut reader = File::open(dir.file("key.new")).unwrap();
        dir.write("key", b"secret").unwrap();
        let mut seen = String::new();
        io::Read::read_to_string(&mut reader, &mut seen).unwrap();
        assert_eq!(seen, "stale");
        dir.make_private().unwrap();
        assert_eq!(temporary.path().metadata().unwrap().mode() & 0o777, 0o700);
    }
}
