//! The documents against the code: what they link to is there, and what they show is compiled.

use std::fs;
use std::path::{Path, PathBuf};

/// The example that CONTRIBUTING.md walks through: compiled here, and run.
#[path = "../../examples/add_a_stage.rs"]
#[allow(dead_code, reason = "its main is called by a test")]
mod add_a_stage;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `folder` whose name ends in `.end`.
fn files_below(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let below = paths.flat_map(|path| if path.is_dir() { files_below(&path, end) } else { vec![path] });
    below.filter(|path| path.extension().is_some_and(|extension| extension == end)).collect()
}

/// Every document: those at the top, and those in docs/ and dashboards/.
fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(root()).expect("the project").map(|entry| entry.expect("an entry").path());
    let mut documents: Vec<PathBuf> = top.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    documents.extend(["docs", "dashboards"].iter().flat_map(|folder| files_below(&root().join(folder), "md")));
    documents
}

/// A link of a document: what it shows, and where it leads.
struct Link<'a> {
    shown: &'a str,
    target: &'a str,
}

/// The links of a text in Markdown, outside its blocks of code.
fn links(text: &str) -> Vec<Link<'_>> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| {
            part.match_indices("](").filter_map(|(at, between)| {
                let shown = &part[part[..at].rfind('[')? + 1..at];
                let rest = &part[at + between.len()..];
                Some(Link { shown, target: &rest[..rest.find(')')?] })
            })
        })
        .collect()
}

/// The file that a link leads to; `None` for one that leads out of the project or stays in its document.
fn linked_file(document: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split('#').next().filter(|path| !path.is_empty() && !path.contains("://"))?;
    Some(document.parent()?.join(path))
}

/// Blocks of code in that language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(&rest[..rest.find("```")?])).collect()
}

/// Whether a source file defines `name`: a function, a type, or a method of the page's script.
fn defines(source: &str, name: &str) -> bool {
    let starts = |line: &str| {
        let line =
            line.trim_start().trim_start_matches("pub").trim_start_matches("(crate)").trim_start_matches("(super)");
        let line = line.trim_start();
        let words = ["const fn ", "fn ", "struct ", "enum ", "trait ", "const ", "type ", "class ", "function ", ""];
        words.iter().any(|word| {
            let Some(rest) = line.strip_prefix(word).and_then(|rest| rest.strip_prefix(name)) else { return false };
            // Without a keyword before it, it is a method of the script, or a call.
            if word.is_empty() {
                return rest.starts_with('(') && rest.trim_end().ends_with('{');
            }
            !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
        })
    };
    source.lines().any(starts)
}

#[test]
fn every_link_of_every_document_leads_to_a_file() {
    let documents = documents();
    assert!(documents.len() > 10, "the documents were not found");
    let mut dead = Vec::new();
    for document in &documents {
        let text = read(document);
        let files = links(&text).into_iter().filter_map(|link| linked_file(document, link.target));
        dead.extend(
            files.filter(|file| !file.exists()).map(|file| format!("{} to {}", document.display(), file.display())),
        );
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn every_step_of_the_tour_names_a_function_that_its_file_has() {
    let tour = root().join("docs/tour.md");
    let text = read(&tour);
    let steps: Vec<Link<'_>> = links(&text).into_iter().filter(|link| link.target.contains("/src/")).collect();
    assert!(steps.len() > 20, "the tour has {} steps", steps.len());
    let mut lost = Vec::new();
    for Link { shown, target } in steps {
        let name = shown.trim_matches('`').rsplit("::").next().unwrap_or(shown);
        let file = linked_file(&tour, target).expect("a file of the project");
        if !file.exists() || !defines(&read(&file), name) {
            lost.push(format!("{name} in {target}"));
        }
    }
    assert!(lost.is_empty(), "the tour names what is not there:\n{}", lost.join("\n"));
}

#[test]
fn the_tour_would_miss_a_function_that_is_gone() {
    let source =
        "    pub(super) fn translate_outgoing(&mut self) {}\n  pass(from, data) {\n    this.pass(from, data);\n";
    for name in ["translate_outgoing", "pass"] {
        assert!(defines(source, name), "{name}");
    }
    for name in ["translate", "outgoing", "data", "translate_outgoing_now"] {
        assert!(!defines(source, name), "{name}");
    }
    assert!(!defines("    this.pass(from, data);\n    pass(from, data);", "pass"), "a call is no definition");
}

#[test]
fn every_block_of_rust_in_contributing_is_in_the_example() {
    let (contributing, example) =
        (read(&root().join("CONTRIBUTING.md")), read(&root().join("examples/add_a_stage.rs")));
    let blocks = blocks(&contributing, "rust");
    assert!(!blocks.is_empty(), "CONTRIBUTING.md shows no code");
    for block in blocks {
        assert!(example.contains(block), "not in examples/add_a_stage.rs:\n{block}");
    }
}

#[test]
fn the_example_of_a_stage_conserves_and_counts_its_packets() {
    add_a_stage::main().expect("a run to its end");
}

#[test]
fn the_architecture_has_a_line_for_every_room() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let rooms = fs::read_dir(root().join("src")).expect("src").map(|entry| entry.expect("an entry").path());
    let mut missing: Vec<String> = rooms
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|room| !text.contains(&format!("`{room}`")))
        .collect();
    missing.sort();
    assert!(missing.is_empty(), "ARCHITECTURE.md says nothing of {missing:?}");
}

#[test]
fn the_list_of_decisions_names_every_one() {
    let folder = root().join("docs/decisions");
    let list = read(&folder.join("README.md"));
    let names = files_below(&folder, "md").into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let missing: Vec<String> = names.filter(|name| name != "README.md" && !list.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/decisions/README.md lacks {missing:?}");
}
