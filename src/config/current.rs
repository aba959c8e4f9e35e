//! Something that is in force until it is replaced: a configuration, a key.

use std::sync::{Arc, PoisonError, RwLock};

/// Read often and by many, replaced seldom and as a whole. Who has read it
/// keeps what they have; nobody waits for them.
#[derive(Debug)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    #[must_use]
    pub fn get(&self) -> Arc<T> {
        // Whole before and after a panic elsewhere.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
