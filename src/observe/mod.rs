//! What is measured and how it is named: close reasons, histograms, logs.

pub mod admin_socket;
pub mod close_reason;
pub mod histogram_folder;
pub mod histogram_log;
pub mod histograms;
pub mod log;
pub mod service;
pub mod timeline;
