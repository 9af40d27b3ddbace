//! The example files, written from the declarations.

use super::Role;
use super::document::Document;
use super::schema::{DeclaredSection, Reader};

/// The example file of a role: every section and key, its effect, its range and its default.
pub fn example<R: Role>() -> String {
    let mut reader = Reader::new(Document::default());
    R::read(&mut reader);
    let (sections, _) = reader.finish();
    let heading = format!(
        "# The {role}'s configuration, every key with its default. A key or section left out has that default.\n\
         # \"wstether check --role {role} FILE\" judges a file. docs/configuration.md tells how sizes and durations are written.\n",
        role = R::NAME
    );
    let mut text = heading;
    let mut is_first_fallback = true;
    for section in &sections {
        match section.fallback {
            None => text += &section_text(section),
            Some(fallback) => {
                if is_first_fallback {
                    text +=
                        &format!("\n# A stage may have a section of its own, with any of the keys of [{fallback}].\n");
                }
                is_first_fallback = false;
                text += &format!("#[{}]\n", section.name);
            }
        }
    }
    text
}

fn section_text(section: &DeclaredSection) -> String {
    let mut text = format!("\n{}[{}]\n", comment(section.about), section.name);
    for key in &section.keys {
        let range = key.range.as_ref().map_or_else(String::new, |range| format!("# Allowed: {range}.\n"));
        text += &format!("\n{}{range}{} = {}\n", comment(key.effect), key.name, key.default);
    }
    text
}

/// Lines of documentation, each with its leading space, as comments.
fn comment(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("#{line}\n")).collect()
}
