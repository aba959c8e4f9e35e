//! Memory straight from the kernel: zero, page-aligned, and without a page
//! behind it until it is touched. An allocator promises none of the three: the
//! one in use writes a word into each block that it prepares, into memory for
//! which it has asked for huge pages, which makes all of it resident.

use std::io;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A mapping of its own, unmapped when dropped unless leaked.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    bytes: usize,
    leaked: bool,
}

impl Pages {
    /// # Errors
    /// When there is no address space or no memory to promise.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a private mapping at an address of the kernel's choice, which
        // replaces nothing.
        let start = unsafe { mmap_anonymous(null_mut(), bytes, access, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes, leaked: false })
    }

    /// The first of [`Pages::len`] bytes, which are initialised.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Keeps them mapped for good.
    pub fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: mapped in `new` with this length and unmapped only here;
            // who took a pointer out of it does not outlive it.
            let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
            debug_assert!(unmapped.is_ok());
        }
    }
}
