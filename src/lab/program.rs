//! A program that runs in a namespace, its log in a file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::io::process::terminate;

/// How long a program has for its end before it is killed: more than a gateway's own deadline.
const END_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running program. It is killed when dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command`, whose output goes to the file `log`.
    ///
    /// # Errors
    /// The program is not there, or could not enter its namespace.
    pub fn start(name: &str, mut command: Command, log: PathBuf) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child =
            command.spawn().map_err(|error| io::Error::new(error.kind(), format!("starting {name}: {error}")))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The file of what it says.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it has ended by itself, at most `limit`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let late = Instant::now() + limit;
        loop {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() >= late {
                return Ok(ended);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks it to end with SIGTERM and tells how it did; one that does not is killed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        terminate(&mut self.child)?;
        match self.wait(END_MAX)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
