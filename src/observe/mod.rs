//! What is measured and how it is named: close reasons, histograms, logs.

pub mod log;
pub mod timeline;
