//! `ringway ctl audit`: reads the trail through the broker, and checks its
//! chain in the database itself, whether the broker runs or not.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::{Reach, Remote};
use crate::broker::DATABASE_FILE;
use crate::broker::store::{VerifyError, verify_audit};
use crate::cli::duration::parse_ms;
use crate::core::audit::{Head, Record};
use crate::core::clock::UnixMillis;
use crate::wire::admin::{AdminResponse, BrokerRequest};

/// Records in one answer of the broker.
const PAGE: u32 = 1_000;
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);
/// Exit code of a check that found something wrong.
const FOUND_SOMETHING: u8 = 3;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The last records
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u32,
        /// Go on with those that come
        #[arg(short, long)]
        follow: bool,
    },
    /// All records, oldest first
    List {
        /// Only those of the last time, such as 30m, 12h or 7d
        #[arg(long, value_name = "TIME", value_parser = parse_ms)]
        since: Option<u64>,
        /// Only those behind this number
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
    },
    /// Follow the hash chain from the first record to the last, and name the
    /// first one that is broken. Exit code 3 when there is one
    Verify {
        /// The broker's database, in use or not [default: broker.sqlite3 beside
        /// the admin socket]
        #[arg(value_name = "FILE")]
        database: Option<PathBuf>,
        /// A head that was noted elsewhere: the chain must go through it. May
        /// be repeated
        #[arg(long, value_name = "NUMBER:HASH")]
        head: Vec<Head>,
    },
}

/// # Errors
/// When the broker does not answer, or the database cannot be read.
pub fn run(
    socket: Option<&Path>,
    remote: &Remote,
    as_json: bool,
    command: Command,
) -> anyhow::Result<ExitCode> {
    let broker = || Reach::new(socket, remote);
    match command {
        Command::Tail { lines, follow } => tail(&broker()?, as_json, lines, follow)?,
        Command::List { since, after } => {
            let since = since.map(|ms| UnixMillis(UnixMillis::now().0.saturating_sub(ms)));
            print_all(&broker()?, as_json, after, since)?;
        }
        Command::Verify { database, head } => {
            let database = match database {
                Some(database) => database,
                None => beside(&broker()?)?,
            };
            return verify(&database, as_json, head);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The database of the broker that has this socket.
fn beside(broker: &Reach) -> anyhow::Result<PathBuf> {
    match broker {
        Reach::Socket(socket) => Ok(socket.with_file_name(DATABASE_FILE)),
        Reach::Https { .. } => {
            anyhow::bail!("the chain is checked in the database itself: name its file")
        }
    }
}

fn tail(broker: &Reach, as_json: bool, lines: u32, follow: bool) -> anyhow::Result<()> {
    let last = Some(lines.min(PAGE));
    let records =
        fetch(broker, &BrokerRequest::Audit { after: 0, last, since: None, limit: PAGE })?;
    print_each(&records, as_json);
    if !follow {
        return Ok(());
    }
    let mut after = records.last().map_or(0, |record| record.number);
    loop {
        sleep(FOLLOW_INTERVAL);
        after = print_all(broker, as_json, after, None)?.unwrap_or(after);
    }
}

/// Returns the number of the last one, if there was one.
fn print_all(
    broker: &Reach,
    as_json: bool,
    after: u64,
    since: Option<UnixMillis>,
) -> anyhow::Result<Option<u64>> {
    let mut last = None;
    loop {
        let after = last.unwrap_or(after);
        let page = BrokerRequest::Audit { after, last: None, since, limit: PAGE };
        let records = fetch(broker, &page)?;
        print_each(&records, as_json);
        match records.last() {
            Some(record) => last = Some(record.number),
            None => return Ok(last),
        }
    }
}

fn fetch(broker: &Reach, request: &BrokerRequest) -> anyhow::Result<Vec<Record>> {
    match broker.ask(request)? {
        AdminResponse::Audit { records } => Ok(records),
        other => anyhow::bail!("the broker answered something else: {other:?}"),
    }
}

fn print_each(records: &[Record], as_json: bool) {
    for record in records {
        match serde_json::to_string(record) {
            Ok(line) if as_json => println!("{line}"),
            _ => println!("{}", line(record)),
        }
    }
}

/// One record for people. What others chose is never obeyed by a terminal:
/// subjects have no control characters, and JSON escapes them.
pub(super) fn line(record: &Record) -> String {
    let Record { number, at, action, subject, detail, .. } = record;
    format!("{number:>6}  {}  {action:<19}  {subject}  {detail}", at.utc())
}

fn verify(database: &Path, as_json: bool, kept: Vec<Head>) -> anyhow::Result<ExitCode> {
    match verify_audit(database, kept) {
        Ok(head) if as_json => {
            println!(
                "{}",
                json!({ "whole": true, "records": head.number, "head": head.to_string() })
            );
        }
        Ok(head) => println!("{} records are whole\nhead {head}", head.number),
        Err(VerifyError::Broken(broken)) => {
            if as_json {
                let problem = broken.to_string();
                println!(
                    "{}",
                    json!({ "whole": false, "record": broken.number(), "problem": problem })
                );
            } else {
                println!("the audit trail is broken: {broken}");
            }
            return Ok(ExitCode::from(FOUND_SOMETHING));
        }
        Err(error) => anyhow::bail!("{}: {error}", database.display()),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::audit::{Action, Entry};

    #[test]
    fn a_line_says_when_what_and_whom() {
        let detail = json!({ "user": "ann\u{1b}" });
        let entry = Entry::new(UnixMillis(1_800_000_000_000), Action::Placed, "s", &detail);
        let mut head = Head::EMPTY;
        let record = head.append(entry);
        assert_eq!(
            line(&record),
            "     1  2027-01-15T08:00:00Z  placed               s  {\"user\":\"ann\\u001b\"}"
        );
    }
}
