//! Programs that a test starts and that end with it, whatever happens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Pid;

use super::wait::poll;

/// Lines of a log that a failure message shows.
const LOG_LINES_SHOWN: usize = 25;

/// A running program with its output in a file. It is killed when this is
/// dropped, and also (`setpriv --pdeathsig`) when the thread that started it
/// dies without doing so.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; both its streams go to `NAME.log` in `folder`.
    pub fn start(folder: &Path, name: &str, program: &Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let stream = File::create(&log).unwrap();
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(program.get_program());
        guarded.args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        if let Some(folder) = program.get_current_dir() {
            guarded.current_dir(folder);
        }
        let child = guarded
            .stdin(Stdio::null())
            .stdout(stream.try_clone().unwrap())
            .stderr(stream)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything that it printed so far.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it printed, with its name, for messages.
    pub fn last_words(&self) -> String {
        let printed = self.printed();
        let lines: Vec<_> = printed.lines().collect();
        let start = lines.len().saturating_sub(LOG_LINES_SHOWN);
        format!("--- {} ---\n{}\n", self.name, lines[start..].join("\n"))
    }

    /// Asks it to stop and waits for that.
    pub fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.terminate();
        self.wait(limit)
    }

    /// Ends it without asking.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to stop and does not wait.
    pub fn terminate(&self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).ok();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || self.child.try_wait().ok().flatten())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
