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
    sections.iter().fold(heading, |text, section| text + "\n" + &section_text(section))
}

fn section_text(section: &DeclaredSection) -> String {
    if let Some(fallback) = section.fallback {
        return format!("# The keys of [{fallback}], for this stage alone.\n#[{}]\n", section.name);
    }
    let mut text = String::new();
    for line in section.about {
        text += &format!("#{line}\n");
    }
    text += &format!("[{}]\n", section.name);
    for key in &section.keys {
        for line in key.effect {
            text += &format!("#{line}\n");
        }
        text += &format!("# Allowed: {}.\n{} = {}\n", key.allowed, key.name, key.default);
    }
    text
}
