//! The one declaration of each setting: [`settings!`] makes the typed section, its reading, its default, its range and
//! its text in the example file from the same lines.

use std::collections::BTreeMap;

use super::document::{Document, Item, Place, parse_item};
use super::values::{Ranged, Value, alternatives, listed};
use super::{Problem, suggest};

/// Declares one section of a configuration file:
///
/// ```ignore
/// settings! {
///     /// What the section is about.
///     pub struct Listen {
///         /// What the key does.
///         links_max: u32 = 1024 in 1..=65536,
///     }
/// }
/// ```
///
/// Defaults and bounds are written as TOML writes them, and are read the way a person's values are.
macro_rules! settings {
    ($(#[doc = $about:literal])+ pub struct $name:ident { $(
        $(#[doc = $effect:literal])+
        $key:ident: $type:ty = $default:tt $(in $min:literal ..= $max:literal)?,
    )+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[doc = $effect])+ pub $key: $type, )+ }

        impl $crate::config::schema::Settings for $name {
            const ABOUT: &'static [&'static str] = &[$($about),+];

            fn read(section: &mut $crate::config::schema::Section<'_>) -> Self {
                Self { $(
                    $key: section
                        .key::<$type>(stringify!($key), stringify!($default), &[$($effect),+])
                        $(.within(stringify!($min), stringify!($max)))?
                        .read(),
                )+ }
            }
        }
    };
}
pub(super) use settings;

/// A section that [`settings!`] declared.
pub(super) trait Settings: Sized {
    /// What the section is about, a line each.
    const ABOUT: &'static [&'static str];

    /// Reads each key; a wrong one is reported and read as its default.
    fn read(section: &mut Section<'_>) -> Self;
}

/// A key as it was declared.
#[derive(Debug)]
pub(super) struct DeclaredKey {
    pub(super) name: &'static str,
    pub(super) default: &'static str,
    pub(super) allowed: String,
    /// The words or the bounds, where it has them.
    pub(super) range: Option<String>,
    pub(super) effect: &'static [&'static str],
}

/// A section as it was declared.
#[derive(Debug)]
pub(super) struct DeclaredSection {
    pub(super) name: String,
    pub(super) about: &'static [&'static str],
    pub(super) keys: Vec<DeclaredKey>,
    /// The section whose values stand in for missing ones.
    pub(super) fallback: Option<&'static str>,
}

/// Reads a document section by section. It keeps what was declared and every problem found.
#[derive(Debug)]
pub struct Reader {
    document: Document,
    declared: Vec<DeclaredSection>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(document: Document) -> Self {
        Self { document, declared: Vec::new(), problems: Vec::new() }
    }

    /// Reads `[name]`.
    pub(super) fn section<S: Settings>(&mut self, name: &str) -> S {
        self.open::<S>(name.to_owned(), None)
    }

    /// Reads `[name]`; a key that is not there is taken from `[fallback]`, which was read before.
    pub(super) fn section_over<S: Settings>(&mut self, name: String, fallback: &'static str) -> S {
        self.open::<S>(name, Some(fallback))
    }

    /// Reports what is wrong with the first of `paths` in the light of other values. The place is that of the first that
    /// was written at all.
    pub(super) fn object(&mut self, paths: &[impl AsRef<str>], what: impl std::fmt::Display) {
        let written = paths.iter().find_map(|path| self.document.entries.get_key_value(path.as_ref()));
        let place = written.map_or(Place::Default, |(_, entry)| entry.place.clone());
        let path = paths.first().map_or("", AsRef::as_ref);
        let problem = Problem { place, what: format!("{path}: {what}") };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// True where the file or the command line says it.
    pub(super) fn is_written(&self, path: &str) -> bool {
        self.document.entries.contains_key(path)
    }

    /// True while nothing is wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Adds what nobody asked for, and ends the reading.
    pub(super) fn finish(mut self) -> (Vec<DeclaredSection>, Vec<Problem>) {
        let unknown = unknown_names(&self.document, &self.declared);
        self.problems.extend(unknown);
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        (self.declared, self.problems)
    }

    fn open<S: Settings>(&mut self, name: String, fallback: Option<&'static str>) -> S {
        let declared = DeclaredSection { name, about: S::ABOUT, keys: Vec::new(), fallback };
        let mut section = Section { document: &self.document, problems: &mut self.problems, declared };
        let settings = S::read(&mut section);
        let declared = section.declared;
        self.declared.push(declared);
        settings
    }
}

/// One section while it is read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    document: &'a Document,
    problems: &'a mut Vec<Problem>,
    declared: DeclaredSection,
}

impl<'a> Section<'a> {
    pub(super) fn key<T: Value>(
        &mut self,
        name: &'static str,
        default: &'static str,
        effect: &'static [&'static str],
    ) -> Key<'_, 'a, T> {
        let choices = T::choices();
        let range = (!choices.is_empty()).then(|| alternatives(&choices));
        let declared = DeclaredKey { name, default, allowed: T::allowed(), range, effect };
        Key { section: self, declared, check: Box::new(|_: &T| true) }
    }
}

/// One key while it is read.
pub(super) struct Key<'s, 'a, T> {
    section: &'s mut Section<'a>,
    declared: DeclaredKey,
    check: Box<dyn Fn(&T) -> bool>,
}

impl<T: Value> Key<'_, '_, T> {
    /// Allows only what lies between the two, both included.
    pub(super) fn within(mut self, min: &'static str, max: &'static str) -> Self
    where
        T: Ranged,
    {
        let (low, high): (T, T) = (read_declared(min), read_declared(max));
        self.declared.allowed += &format!(", from {min} to {max}");
        self.declared.range = Some(T::between(min, max));
        self.check = Box::new(move |value| value.is_within(&low, &high));
        self
    }

    /// The value that was written, or the default; a wrong one is reported.
    pub(super) fn read(self) -> T {
        let Key { section, declared, check } = self;
        let DeclaredKey { name, default, allowed, .. } = &declared;
        let judged = |item: &Item| T::from_item(item).filter(|value| check(value));
        let path = format!("{}.{name}", section.declared.name);
        let own = section.document.entries.get(&path);
        let value = match own {
            Some(entry) => judged(&entry.item).or_else(|| {
                let reason = T::reason(&entry.item).map_or_else(String::new, |reason| format!("; {reason}"));
                let hint = match &entry.item {
                    Item::Text(text) if T::is_list() => list_on_the_command_line::<T>(&path, text, &entry.place),
                    Item::Text(text) => suggest(text, T::choices().into_iter()),
                    Item::Integer(_) | Item::Flag(_) | Item::List(_) | Item::Other => String::new(),
                };
                let what = format!("{path} = {}: must be {allowed}{reason}{hint}", T::shown(&entry.written));
                section.problems.push(Problem { place: entry.place.clone(), what });
                None
            }),
            // A wrong value there was reported when that section was read.
            None => section.declared.fallback.and_then(|fallback| {
                section.document.entries.get(&format!("{fallback}.{name}")).and_then(|entry| judged(&entry.item))
            }),
        };
        let value = value.unwrap_or_else(|| read_declared(default));
        section.declared.keys.push(declared);
        value
    }
}

/// How a list is written that was typed as text: a shell takes the quotes of one that stands bare. Nothing where the quotes
/// are not all that is wrong with it.
fn list_on_the_command_line<T: Value>(path: &str, typed: &str, place: &Place) -> String {
    let Place::Option(option) = place else { return String::new() };
    if T::from_item(&Item::List(listed(typed).map(|part| Item::Text(part.to_owned())).collect())).is_none() {
        return String::new();
    }
    let quoted: Vec<String> = listed(typed).map(|part| format!("\"{part}\"")).collect();
    format!("; write it like {option} '{path}=[{}]'", quoted.join(", "))
}

/// Reads a default or a bound. They are literals of this crate, and tests read every one of them.
#[expect(clippy::expect_used, reason = "a declared literal; reading an empty configuration reads them all")]
fn read_declared<T: Value>(text: &'static str) -> T {
    parse_item(text).and_then(|item| T::from_item(&item)).expect("a declared literal is of its key's kind")
}

/// What was written and nobody asked for. An unknown section is told once, not for each of its keys.
fn unknown_names(document: &Document, declared: &[DeclaredSection]) -> Vec<Problem> {
    let sections: BTreeMap<&str, &DeclaredSection> = declared.iter().map(|it| (it.name.as_str(), it)).collect();
    let is_room = |name: &str| sections.keys().any(|section| section.starts_with(&format!("{name}.")));
    let mut problems = Vec::new();
    for (name, place) in &document.sections {
        let told_already = name.rsplit_once('.').is_some_and(|(parent, _)| {
            document.sections.contains_key(parent) && !sections.contains_key(parent) && !is_room(parent)
        });
        let is_key = name.rsplit_once('.').and_then(|(parent, key)| find_key(&sections, parent, key));
        if let Some(key) = is_key {
            let what = format!("{name}: must be {}, not a table", key.allowed);
            problems.push(Problem { place: place.clone(), what });
        } else if !sections.contains_key(name.as_str()) && !is_room(name) && !told_already {
            let hint = suggest(name, sections.keys().copied());
            problems.push(Problem { place: place.clone(), what: format!("[{name}]: unknown section{hint}") });
        }
    }
    for (path, entry) in &document.entries {
        let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
        let Some(found) = sections.get(section) else {
            if let Some(section) = sections.get(path.as_str()) {
                let what =
                    format!("{path}: is a section, and has no value of its own{}", how_to_write(section, &entry.place));
                problems.push(Problem { place: entry.place.clone(), what });
            } else if section.is_empty() || is_room(section) {
                let hint = elsewhere(declared, key);
                problems.push(Problem { place: entry.place.clone(), what: format!("{path}: not in a section{hint}") });
            }
            continue;
        };
        if find_key(&sections, section, key).is_none() {
            let hint = suggest(key, found.keys.iter().map(|key| key.name));
            let hint = if hint.is_empty() { elsewhere(declared, key) } else { hint };
            problems.push(Problem { place: entry.place.clone(), what: format!("{path}: unknown key{hint}") });
        }
    }
    problems
}

/// How a key of the section is written, the first one for an example.
fn how_to_write(section: &DeclaredSection, place: &Place) -> String {
    let Some(DeclaredKey { name: key, default, .. }) = section.keys.first() else { return String::new() };
    let name = &section.name;
    match place {
        Place::Option(option) => format!("; its keys are set like {option} {name}.{key}={default}"),
        Place::Line(_) | Place::Default => {
            format!("; its keys are written below a line [{name}], like {key} = {default}")
        }
    }
}

/// `; it belongs in …` where other sections have this key.
fn elsewhere(declared: &[DeclaredSection], key: &str) -> String {
    let has_it =
        |section: &&DeclaredSection| section.fallback.is_none() && section.keys.iter().any(|it| it.name == key);
    let rooms: Vec<String> = declared.iter().filter(has_it).map(|section| format!("[{}]", section.name)).collect();
    if rooms.is_empty() { rooms.concat() } else { format!("; it belongs in {}", rooms.join(" or ")) }
}

fn find_key<'a>(sections: &BTreeMap<&str, &'a DeclaredSection>, section: &str, key: &str) -> Option<&'a DeclaredKey> {
    sections.get(section)?.keys.iter().find(|declared| declared.name == key)
}
