//! `wstether demo`: the whole thing on this machine.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cli;
use crate::demo::{self, Error, Settings, Shown};
use crate::exit::{DEMO_NEEDS, Status, own_capabilities};
use crate::lab::Scratch;
use crate::stop::Stop;

/// All of it takes some seconds; what takes so long will not end.
const TIME_MAX: Duration = Duration::from_secs(120);

impl Error {
    /// The exit status.
    pub fn status(&self) -> Status {
        match self {
            Self::NotPermitted(_) => Status::NotPermitted,
            Self::Lab(_) | Self::Tethering(_) | Self::Io(_) | Self::Wrong(_) => Status::Failed,
        }
    }
}

/// Runs the demo and prints what it has shown.
///
/// # Errors
/// [`Error`].
pub fn run(args: &cli::Demo, out: &mut dyn Write) -> Result<(), Error> {
    own_capabilities().require(&DEMO_NEEDS)?;
    let binary = std::env::current_exe()?;
    let scratch = Scratch::new()?;
    let guard = Guard::start(scratch.path().to_owned())?;
    let settings = Settings { binary: &binary, egress: args.egress, relay: args.relay };
    let mut step = 0;
    let shown = demo::run(&settings, &scratch, &mut |what| {
        step += 1;
        if !args.json {
            // Who does not read the steps still wants the exit status.
            drop(writeln!(out, "{step:>2}. {what}").and_then(|()| out.flush()));
        }
    });
    guard.end();
    let Shown { report, status } = shown?;
    if args.json {
        writeln!(out, "{}", serde_json::json!(report))?;
    } else {
        write!(out, "\n{status}")?;
    }
    Ok(())
}

/// Ends the process, and with it every program and namespace, where the demo takes too long or is interrupted.
struct Guard {
    over: Arc<AtomicBool>,
    word: Stop,
    thread: JoinHandle<()>,
}

impl Guard {
    fn start(scratch: PathBuf) -> io::Result<Self> {
        let (over, word) = (Arc::new(AtomicBool::new(false)), Stop::on_signals()?);
        let (is_over, stop) = (Arc::clone(&over), word.clone());
        let thread = thread::Builder::new().name("guard".to_owned()).spawn(move || {
            let late = Instant::now() + TIME_MAX;
            // A wait may end early; only the word or the time counts.
            while let Ok(false) = stop.wait(late.saturating_duration_since(Instant::now())) {
                if Instant::now() >= late {
                    break;
                }
            }
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let why = if stop.is_triggered() { "interrupted".to_owned() } else { format!("not done in {TIME_MAX:?}") };
            drop(writeln!(io::stderr(), "wstether: the demo was {why}"));
            drop(fs::remove_dir_all(scratch));
            #[expect(clippy::disallowed_methods, reason = "what the demo set up lives in namespaces that end with it")]
            process::exit(Status::Failed.code().into());
        })?;
        Ok(Self { over, word, thread })
    }

    fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        self.word.trigger();
        drop(self.thread.join());
    }
}
