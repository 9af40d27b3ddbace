//! Configuration: TOML files and options of the command line in, a configuration that cannot be wrong out.
//!
//! Each setting is declared once, by the macro `settings!` (src/config/schema.rs): its type, default, range and effect.
//! From that come the typed section, the errors and the example file. A file is read as a whole: unknown keys, wrong
//! kinds, values out of range and values that do not fit each other are all told at once.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub mod client;
pub mod conditioning;
mod document;
mod example;
pub mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
mod schema;
pub mod shared;
pub mod values;

pub use client::Client;
pub use document::Place;
pub use example::example;
pub use gateway::Gateway;

use document::Document;
use schema::Reader;

/// A configuration of one role: [`Gateway`] or [`Client`].
pub trait Role: Sized {
    /// The role's name, as the command is called.
    const NAME: &'static str;

    /// Reads every section and judges how the values fit together. What is wrong is reported to the reader; the value
    /// is used only where nothing is.
    fn read(reader: &mut Reader) -> Self;

    /// What is right and may yet not be all that is needed, a sentence each: what must come from elsewhere, what will not do
    /// what it seems to.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A value from the command line, laid over the file's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The option as it was typed, for errors: `--listen`.
    pub option: String,
    /// `section.key`.
    pub path: String,
    /// The value as it was typed: TOML, or text without quotes.
    pub value: String,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// Section, key, value and what is allowed.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Everything that is wrong, in the order of the lines.
    #[error("{}", listing(path.as_deref(), problems, *other_role))]
    Wrong {
        /// The file; none where only defaults and the command line were read.
        path: Option<PathBuf>,
        /// At least one.
        problems: Vec<Problem>,
        /// The role whose file it seems to be, where that is another.
        other_role: Option<&'static str>,
    },
}

/// A key whose value is right by itself and does not fit where it is to be used, and why.
pub type Misfit = (&'static str, String);

/// Reads a file (none: the defaults), lays the command line over it, and judges the whole.
pub fn load<R: Role>(path: Option<&Path>, overrides: &[Override]) -> Result<R, ConfigError> {
    load_for(path, overrides, |_| None)
}

/// The same, with what only the program that is to run with it can judge.
pub fn load_for<R: Role>(
    path: Option<&Path>,
    overrides: &[Override],
    misfit: impl FnOnce(&R) -> Option<Misfit>,
) -> Result<R, ConfigError> {
    let text = match path {
        Some(path) => file::read(path, file::FILE_BYTES_MAX)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?,
        None => String::new(),
    };
    judge(&text, overrides, misfit).map_err(|problems| ConfigError::Wrong {
        path: path.map(Path::to_path_buf),
        problems,
        other_role: other_role::<R>(&text),
    })
}

/// Judges a configuration's text. The errors are all there are, in the order of the lines.
pub fn parse<R: Role>(text: &str, overrides: &[Override]) -> Result<R, Vec<Problem>> {
    judge(text, overrides, |_| None)
}

fn judge<R: Role>(
    text: &str,
    overrides: &[Override],
    misfit: impl FnOnce(&R) -> Option<Misfit>,
) -> Result<R, Vec<Problem>> {
    let mut document = Document::parse(text)?;
    document.lay_over(overrides);
    let mut reader = Reader::new(document);
    let role = R::read(&mut reader);
    if reader.is_clean()
        && let Some((key, what)) = misfit(&role)
    {
        reader.object(&[key], what);
    }
    let (_, problems) = reader.finish();
    if problems.is_empty() { Ok(role) } else { Err(problems) }
}

/// The other role, where the file has a section that is its alone, and none that is this one's alone.
fn other_role<R: Role>(text: &str) -> Option<&'static str> {
    let written = Document::parse(text).ok()?.sections;
    let roles = [(Gateway::NAME, sections::<Gateway>()), (Client::NAME, sections::<Client>())];
    let (own, other): (Vec<_>, Vec<_>) = roles.iter().partition(|(name, _)| *name == R::NAME);
    let (own, other) = (own.first()?, other.first()?);
    let has_one_alone = |these: &[String], those: &[String]| {
        these.iter().any(|section| written.contains_key(section) && !those.contains(section))
    };
    (has_one_alone(&other.1, &own.1) && !has_one_alone(&own.1, &other.1)).then_some(other.0)
}

/// The sections that a role's file can have.
fn sections<R: Role>() -> Vec<String> {
    let mut reader = Reader::new(Document::default());
    R::read(&mut reader);
    let (declared, _) = reader.finish();
    declared.into_iter().map(|section| section.name).collect()
}

fn listing(path: Option<&Path>, problems: &[Problem], other_role: Option<&str>) -> String {
    let source = path.map_or_else(|| "the command line".to_owned(), |path| path.display().to_string());
    let hint =
        other_role.map(|role| format!("is this a {role}'s file? \"wstether check --role {role}\" judges it as one"));
    let lines = problems.iter().map(ToString::to_string).chain(hint);
    lines.map(|line| format!("{source}: {line}")).collect::<Vec<_>>().join("\n")
}

/// Names longer than this are no slip of the finger.
const SUGGESTION_CHARS_MAX: usize = 40;

/// `; did you mean "…"?` where one of the candidates is close, else nothing.
fn suggest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let chars = written.chars().count();
    if chars > SUGGESTION_CHARS_MAX {
        return String::new();
    }
    let closest = candidates
        .map(|candidate| (edits_between(written, candidate), candidate))
        .min()
        .filter(|(edits, _)| *edits <= (chars / 3).max(1));
    closest.map_or_else(String::new, |(_, candidate)| format!("; did you mean \"{candidate}\"?"))
}

/// Levenshtein's distance, in characters; letters' case does not count.
fn edits_between(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.to_lowercase().chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = row[j] + usize::from(from != *to);
            next.push(replaced.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
