//! The sources of the modules, for tests that read them.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of a module, tests left out.
pub struct Source {
    pub module: String,
    pub path: PathBuf,
    /// Without comments and with single spaces.
    pub text: String,
}

/// All files of all modules, by path.
pub fn modules() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("modules");
    let mut sources = Vec::new();
    for name in ["cosmos", "deepnode"] {
        let src = root.join(name).join("src");
        for folder in entries(&src).into_iter().filter(|path| path.is_dir()) {
            let module = folder.file_name().unwrap().to_str().unwrap().to_owned();
            read(&module, &folder, &mut sources);
        }
    }
    sources
}

/// A file of the workspace, as `modules` has them.
pub fn file(module: &str, path: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    Source { module: module.into(), text: tidy(&fs::read_to_string(&path).unwrap()), path }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn read(module: &str, folder: &Path, sources: &mut Vec<Source>) {
    for path in entries(folder) {
        if path.is_dir() {
            read(module, &path, sources);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            let text = tidy(&fs::read_to_string(&path).unwrap());
            sources.push(Source { module: module.into(), path, text });
        }
    }
}

/// Without line comments, whatever follows `#[cfg(test)] mod tests {`, and needless white space.
fn tidy(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.map(|line| line.split(" // ").next().unwrap()).collect::<Vec<_>>().join(" ");
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    match code.find("#[cfg(test)] mod tests {").or_else(|| code.find("#[cfg(test)] pub(super) mod tests {")) {
        Some(at) => code[..at].to_owned(),
        None => code,
    }
}

/// What follows each `needle` that no name runs into.
pub fn after<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = &'a str> {
    let names = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(needle)
        .filter(move |(at, _)| !text[..*at].ends_with(names))
        .map(move |(at, _)| &text[at + needle.len()..])
}
