//! Runs the operator's command that switches a machine on. No shell reads it;
//! its time and its output are limited.

use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Kept of what it says; the rest is read and thrown away, so that it never
/// waits for us.
const OUTPUT_BYTES_MAX: usize = 4 * 1024;
/// How long more output is waited for when the command is over: what it left
/// in the background may hold its streams open.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// One command with all its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartCommand {
    /// The program and its arguments.
    pub line: Vec<String>,
    pub timeout_ms: u64,
}

/// Why the machine may not be starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the start command is empty")]
    Empty,
    #[error("cannot run {program}: {error}")]
    Run { program: String, error: std::io::Error },
    #[error("{program} took longer than {after_ms} ms and was killed; it said: {output}")]
    Timeout { program: String, after_ms: u64, output: String },
    #[error("{program} failed ({status}); it said: {output}")]
    Failed { program: String, status: ExitStatus, output: String },
}

impl StartCommand {
    /// Runs it to its end. What it leaves in the background lives on.
    ///
    /// # Errors
    /// When it cannot be run, takes too long or fails.
    pub async fn run(&self) -> Result<(), StartError> {
        let (name, arguments) = self.line.split_first().ok_or(StartError::Empty)?;
        let program = name.clone();
        let spawned = Command::new(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: it is killed with what it has started.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Err(StartError::Run { program, error }),
        };
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let output = Mutex::new(Vec::new());
        let within = Duration::from_millis(self.timeout_ms);
        let ended = timeout(within, attend(&mut child, &output)).await;
        let output = || {
            let bytes = output.lock().unwrap_or_else(PoisonError::into_inner);
            let text = String::from_utf8_lossy(&bytes);
            text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()
        };
        match ended {
            Ok(Ok(status)) if status.success() => {
                tracing::info!(%program, output = output(), "A start command is over");
                Ok(())
            }
            Ok(Ok(status)) => Err(StartError::Failed { program, status, output: output() }),
            Ok(Err(error)) => Err(StartError::Run { program, error }),
            Err(_elapsed) => {
                if let Some(group) = group {
                    let _gone_already = kill_process_group(group, Signal::KILL);
                }
                let _reaped = child.wait().await;
                let (after_ms, output) = (self.timeout_ms, output());
                Err(StartError::Timeout { program, after_ms, output })
            }
        }
    }
}

/// Waits for its end and reads what it says.
async fn attend(child: &mut Child, output: &Mutex<Vec<u8>>) -> std::io::Result<ExitStatus> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut listening =
        pin!(async { tokio::join!(listen(stdout, output), listen(stderr, output)) });
    let mut heard_all = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                if !heard_all {
                    let _held_open = timeout(OUTPUT_GRACE, &mut listening).await;
                }
                return status;
            }
            _ = &mut listening, if !heard_all => heard_all = true,
        }
    }
}

async fn listen(stream: Option<impl AsyncRead + Unpin>, output: &Mutex<Vec<u8>>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = [0; 1_024];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let mut kept = output.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend(chunk.iter().take(length.min(room)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::testing::TemporaryDir;

    fn sh(script: &str, timeout_ms: u64) -> StartCommand {
        let line = ["/bin/sh", "-c", script, "sh", "$(id) `id`; id"];
        StartCommand { line: line.map(str::to_owned).into(), timeout_ms }
    }

    #[tokio::test]
    async fn arguments_are_passed_as_they_are() {
        let dir = TemporaryDir::new();
        let file = dir.path().join("argument");
        let script = format!("printf %s \"$1\" > '{}'", file.display());
        sh(&script, 60_000).run().await.unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "$(id) `id`; id");
    }

    #[tokio::test]
    async fn a_failure_says_what_the_command_said_and_not_more_than_a_little() {
        let error = sh("echo no such machine >&2; exit 3", 60_000).run().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("no such machine"), "{text}");
        let error = sh("yes | head -c 1000000; exit 1", 60_000).run().await.unwrap_err();
        assert!(error.to_string().len() < OUTPUT_BYTES_MAX + 200);
        let missing = StartCommand { line: vec!["/no/such/program".into()], timeout_ms: 60_000 };
        assert!(matches!(missing.run().await, Err(StartError::Run { .. })));
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
        let dir = TemporaryDir::new();
        let file = dir.path().join("pid");
        let script = format!("sleep 3600 & echo $! > '{}'; wait", file.display());
        let error = sh(&script, 500).run().await.unwrap_err();
        assert!(matches!(error, StartError::Timeout { .. }), "{error}");
        let pid: u32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        // Whoever inherited it may not have buried it yet.
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while !state().is_empty() && !state().contains(") Z ") {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_is_not_waited_for() {
        let dir = TemporaryDir::new();
        let file = dir.path().join("pid");
        // It holds both streams open.
        let script = format!("sleep 3600 & echo $! > '{}'", file.display());
        sh(&script, 60_000).run().await.unwrap();
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}
