//! A TOML document flattened to `section.key` with the place where each value was written.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{Override, Problem};

/// A value as TOML wrote it. Dates, fractions and nested tables are no setting's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// true or false.
    Flag(bool),
    /// An array.
    List(Vec<Self>),
    /// Anything else.
    Other,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On this line of the file, counted from 1.
    Line(usize),
    /// In this option of the command line.
    Option(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Option(option) => f.write_str(option),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One value of the document.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    /// As the person wrote it, for errors.
    pub(super) written: String,
    pub(super) place: Place,
}

/// Every value by its path (`listen.address`), and every section that was opened.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) sections: BTreeMap<String, Place>,
}

impl Document {
    /// Reads a file's text. All syntax errors are told at once; nothing else is judged while there is one.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(errors.iter().map(|error| syntax_problem(text, error)).collect());
        }
        let mut document = Self::default();
        document.flatten(text, "", table.get_ref());
        Ok(document)
    }

    /// Lays the command line's values over the file's.
    pub(super) fn lay_over(&mut self, overrides: &[Override]) {
        for Override { option, path, value } in overrides {
            let entry =
                Entry { item: item_of_option(value), written: value.clone(), place: Place::Option(option.clone()) };
            self.entries.insert(path.clone(), entry);
            if let Some((section, _)) = path.rsplit_once('.') {
                self.sections.entry(section.to_owned()).or_insert_with(|| Place::Option(option.clone()));
            }
        }
    }

    fn flatten(&mut self, text: &str, parent: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path =
                if parent.is_empty() { key.get_ref().to_string() } else { format!("{parent}.{}", key.get_ref()) };
            let place = Place::Line(line_of(text, key.span()));
            if let DeValue::Table(inner) = value.get_ref() {
                self.sections.insert(path.clone(), place);
                self.flatten(text, &path, inner);
            } else {
                let written = text.get(value.span()).unwrap_or_default().to_owned();
                self.entries.insert(path, Entry { item: item_of(value.get_ref()), written, place });
            }
        }
    }
}

/// Reads one value as TOML writes it; `None` where it is not TOML.
pub(super) fn parse_item(text: &str) -> Option<Item> {
    DeValue::parse(text).ok().map(|value| item_of(value.get_ref()))
}

/// An option's value needs no quotes: what is no TOML value is text.
fn item_of_option(value: &str) -> Item {
    match parse_item(value) {
        Some(Item::Other) | None => Item::Text(value.to_owned()),
        Some(item) => item,
    }
}

fn item_of(value: &DeValue<'_>) -> Item {
    match value {
        DeValue::String(text) => Item::Text(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Item::Other, Item::Integer)
        }
        DeValue::Boolean(flag) => Item::Flag(*flag),
        DeValue::Array(items) => Item::List(items.iter().map(|item| item_of(item.get_ref())).collect()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Item::Other,
    }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let line = error.span().map_or(1, |span| line_of(text, span));
    let what = match text.lines().nth(line - 1).and_then(key_of_bare_text) {
        Some(key) => format!("text needs quotes: {key} = \"…\""),
        None => error.message().to_owned(),
    };
    Problem { place: Place::Line(line), what: format!("not TOML: {what}") }
}

/// The key in a line whose value is text without quotes: of `level = info` a parser says that it is no float. The text is not
/// repeated: it may be a token.
fn key_of_bare_text(line: &str) -> Option<&str> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split(" #").next().unwrap_or_default().trim());
    let is_key =
        !key.is_empty() && key.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.'));
    let is_flag = ["true", "false", "yes", "no", "on", "off"].iter().any(|word| value.eq_ignore_ascii_case(word));
    let is_text = value.starts_with(|first: char| first.is_alphabetic() || matches!(first, '/' | ':'))
        || value.starts_with(|first: char| first.is_ascii_digit()) && value.contains(['.', ':', '/']);
    (is_key && is_text && !is_flag && parse_item(value).is_none()).then_some(key)
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
