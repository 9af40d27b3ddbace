//! One part, in a process of its own under a watchdog: whatever hangs in it ends with that process, and the other parts go on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wstether::lab::Scratch;

use crate::{Figures, Outcome, PART, PARTS, Part, Run};

/// The quick setting as a whole ends within 5 minutes, and a part that is given up needs a moment to go.
const QUICK_MAX: Duration = Duration::from_secs(298);

/// A part of the full setting repeats and lasts longer: so many times the limit of the quick one.
const FULL_FACTOR: u32 = 8;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The word for the full setting, between the two processes.
const FULL: &str = "full";

/// Measures a part in a process of its own. One that takes too long is killed, and what it started goes with it.
pub(crate) fn watched(part: &Part, run: &Run, started: Instant) -> Outcome<Figures> {
    let quick_max = Duration::from_secs(part.quick_max_s);
    let limit =
        if run.full { quick_max * FULL_FACTOR } else { quick_max.min(QUICK_MAX.saturating_sub(started.elapsed())) };
    // Its files go there, and are gone though it be killed.
    let scratch = Scratch::new()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([PART, part.name, if run.full { FULL } else { "" }])
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It stays open: where this process dies, the part ends, too.
    let mut known = child.stdin.take().ok_or("no standard input")?;
    writeln!(known, "{}", json!(run.known))?;
    let out = child.stdout.take().ok_or("no standard output")?;
    let told = std::thread::spawn(move || io::read_to_string(out));
    let is_over = ended(&mut child, limit)?;
    let told = told.join().map_err(|_| "the reader of a part panicked")??;
    drop(known);
    match serde_json::from_str(&told) {
        Ok(Value::Object(figures)) => Ok(figures),
        Ok(Value::String(why)) => Err(why.into()),
        Ok(_) | Err(_) if !is_over => Err(format!("given up after {} s", limit.as_secs()).into()),
        Ok(_) | Err(_) => Err("it ended without a word".into()),
    }
}

/// Waits until the process has ended, and kills it where that takes longer than the limit. Tells whether it ended itself.
fn ended(child: &mut Child, limit: Duration) -> Outcome<bool> {
    let late = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= late {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}

/// Measures the part that is named, and tells figures or the reason why there are none as one line of JSON.
pub(crate) fn serve(mut typed: impl Iterator<Item = String>) -> Outcome<()> {
    let name = typed.next().ok_or("no part")?;
    let part = PARTS.iter().find(|part| part.name == name).ok_or("no such part")?;
    let full = typed.next().is_some_and(|word| word == FULL);
    let mut input = BufReader::new(io::stdin());
    let mut known = String::new();
    input.read_line(&mut known)?;
    std::thread::spawn(move || end_with(input));
    let measured = (part.measure)(&Run { full, known: serde_json::from_str(&known)? });
    let told = measured.map_or_else(|error| Value::String(error.to_string()), Value::Object);
    Ok(writeln!(io::stdout(), "{told}")?)
}

/// Waits for the end of who asked, which is the end of the input.
#[allow(clippy::disallowed_methods, reason = "what was set up here, programs and namespaces, goes with this process")]
fn end_with(mut input: impl Read) {
    drop(input.read_to_end(&mut Vec::new()));
    std::process::exit(1);
}
