//! Rules of the source tree that no compiler checks: who may import whom, where `unsafe` may stand, what a file begins with, what
//! may not be left behind, and that README and CI give the same commands.
//!
//! The rules read the tree as it lies on disk, so that they hold in an unpacked archive too. Code is looked at without its comments
//! and literals ([`blank_prose`]), as a list of [`Token`]s; the last test shows that these helpers see what they look for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders of `src/`, from the lowest layer to the highest. Each imports its own modules, `error`, `options`, and what stands
/// before it here.
const LAYERS: [&str; 6] = ["sys", "format", "segment", "write", "read", "recover"];

/// The most lines that a file of `src/` may have, tests included.
const MAX_LINES: usize = 700;

#[test]
fn folders_import_only_what_stands_below_them() {
    let mut findings = Vec::new();
    for file in source_files() {
        let module = module_path(&file.path);
        let owner = module.first().map_or("lib", String::as_str);
        for import in imports(&tokens(&blank_prose(&file.text)), &module) {
            if !may_import(owner, &import.target) {
                findings.push(format!("{}:{}: {owner} imports crate::{}", file.path, import.line, import.target));
            }
        }
    }
    report(
        "a folder imports its own modules, error, options and the folders before it in \
         sys, format, segment, write, read, recover; journal uses the public API; log and lib tie them together",
        &findings,
    );
}

#[test]
fn unsafe_stands_in_sys_alone() {
    let mut findings = Vec::new();
    for file in source_files().iter().filter(|file| !file.path.starts_with("src/sys/")) {
        let tokens = tokens(&blank_prose(&file.text));
        for (index, token) in tokens.iter().enumerate() {
            let allowed_again = token.text == "unsafe_code" && !(index > 1 && tokens[index - 2].text == "deny");
            if token.text == "unsafe" || allowed_again {
                findings.push(format!("{}:{}: {}", file.path, token.line, token.text));
            }
        }
    }
    report("unsafe code stands in src/sys alone, behind a safe face", &findings);
}

#[test]
fn what_threads_meet_in_comes_from_one_file() {
    const MET_IN: [&str; 9] =
        ["atomic", "thread", "thread_local", "Mutex", "Condvar", "RwLock", "Once", "OnceLock", "Instant"];
    // They hold statics of the whole process, which outlive an execution of a model.
    const STATICS: [&str; 3] = ["src/sys/clock.rs", "src/sys/hook.rs", "src/write/reentry.rs"];
    let mut findings = Vec::new();
    for file in source_files() {
        let is_test = file.path.ends_with("/tests.rs");
        if is_test || file.path.starts_with("src/sys/sync") || STATICS.contains(&file.path.as_str()) {
            continue;
        }
        let code = blank_prose(&file.text);
        let tokens = tokens(code.split("#[cfg(test)]").next().unwrap_or_default());
        for (index, token) in tokens.iter().enumerate() {
            let is_path = |token: &&Token| {
                token.text.chars().all(is_word) || ["::", "{", "}", ","].contains(&token.text.as_str())
            };
            let mut path = tokens[index..].iter().take_while(is_path).skip(1);
            let from_std = token.text == "std" && path.any(|name| MET_IN.contains(&name.text.as_str()));
            if from_std || token.text == "parking_lot" {
                findings.push(format!("{}:{}: {}", file.path, token.line, token.text));
            }
        }
    }
    report("locks, atomics, threads and Instant come from sys::sync, so that the models run the very code", &findings);
}

#[test]
fn nothing_is_left_to_do() {
    // Written in pieces, for this file is looked at too.
    let words = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("X", "XX")];
    let calls = [concat!("db", "g!"), concat!("to", "do!"), concat!("unimple", "mented!")];
    let mut findings = Vec::new();
    for file in tree_files().iter().filter(|file| has_extension(&file.path, &["rs", "md", "toml"])) {
        for (line, text) in numbered_lines(&file.text) {
            for word in words.iter().chain(&calls).filter(|word| has_word(text, word)) {
                findings.push(format!("{}:{line}: {word}", file.path));
            }
        }
    }
    report("finish it, or write down in docs/ what is open and why", &findings);
}

#[test]
fn every_source_file_says_what_it_owns() {
    let mut findings = Vec::new();
    for file in source_files() {
        let first = file.text.lines().next().unwrap_or_default();
        let says_something = first.strip_prefix("//! ").is_some_and(|rest| !rest.trim().is_empty());
        if !says_something {
            findings.push(format!("{}:1: {first}", file.path));
        }
    }
    report("a file of src/ begins with a `//!` paragraph: what it owns, promises, and leaves to others", &findings);
}

#[test]
fn the_library_prints_nothing() {
    let mut findings = Vec::new();
    for file in source_files().iter().filter(|file| !file.path.starts_with("src/bin/")) {
        let tokens = tokens(&blank_prose(&file.text));
        for pair in tokens.windows(2) {
            if ["print", "println", "eprint", "eprintln"].contains(&pair[0].text.as_str()) && pair[1].text == "!" {
                findings.push(format!("{}:{}: {}!", file.path, pair[0].line, pair[0].text));
            }
        }
    }
    report("a library returns what it has to say: an Err, a report, a figure", &findings);
}

#[test]
fn ci_runs_the_commands_that_the_readme_gives() {
    for (name, start) in [("test", "cargo test"), ("quickstart", "cargo run --release --example quickstart")] {
        let readme = read("README.md");
        let given: Vec<&str> = readme.lines().filter(|line| line.starts_with(start)).collect();
        assert_eq!(given.len(), 1, "README.md gives one command that begins with `{start}`: {given:?}");

        let script = root().join("ci/readme-command.sh");
        let output = Command::new(&script).arg(name).output().unwrap_or_else(|e| panic!("{}: {e}", script.display()));
        assert!(output.status.success(), "{output:?}");
        let run = String::from_utf8_lossy(&output.stdout);
        assert_eq!(run.trim(), given[0], "CI runs another command than README.md gives");
    }
    for (script, line) in [
        (".ci/run", "ci/check.sh"),
        (".ci/run", "ci/quickstart.sh"),
        ("ci/check.sh", "ci/readme-command.sh test"),
        ("ci/quickstart.sh", "ci/readme-command.sh quickstart"),
        ("justfile", "    ci/check.sh"),
    ] {
        assert!(read(script).contains(line), "{script} does not run `{line}`");
    }
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    // Written in pieces, for this file is looked at too.
    let places = [concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut findings = Vec::new();
    for file in tree_files() {
        for (line, text) in numbered_lines(&file.text) {
            if places.iter().any(|place| text.contains(place)) {
                findings.push(format!("{}:{line}: {}", file.path, text.trim()));
            }
        }
    }
    report("a path that exists on one machine means nothing on the next", &findings);
}

#[test]
fn source_files_stay_small() {
    let mut findings = Vec::new();
    for file in source_files() {
        let lines = file.text.lines().count();
        if lines > MAX_LINES {
            findings.push(format!("{}: {lines} lines", file.path));
        }
    }
    report(&format!("a file of src/ has at most {MAX_LINES} lines: ask whether it is two"), &findings);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut findings = Vec::new();
    for file in tree_files().iter().filter(|file| has_extension(&file.path, &["md"])) {
        let folder = root().join(&file.path).parent().map(Path::to_owned).unwrap_or_default();
        for (line, text) in numbered_lines(&file.text) {
            for rest in text.split("](").skip(1) {
                let link = rest.split([')', '#']).next().unwrap_or_default();
                let elsewhere = link.is_empty() || link.contains("://") || link.contains("::");
                if !elsewhere && !folder.join(link).exists() {
                    findings.push(format!("{}:{line}: {link}", file.path));
                }
            }
        }
    }
    report("a relative link names a file of the tree", &findings);
}

/// A check that cannot fail checks nothing.
#[test]
fn the_helpers_see_what_they_look_for() {
    let text = r##"
use crate::{format::frame, sys::{map, file}, error::Error};
// use crate::log;
/* unsafe /* nested */ unsafe */
const TEXT: &str = "crate::log \" unsafe"; const RAW: &str = r#"crate::log "unsafe"#;
fn life<'a>(quote: char) -> &'a str { if quote == '"' || quote == '\'' { super::view::text() } else { "" } }
mod tests { use super::super::index; use super::super::super::write::cursor; mod deep { use super::super::Same; } }
pub(crate) fn last() { crate::journal::replay() }
"##;
    let module = ["read".to_owned(), "iter".to_owned()];
    let found: Vec<_> =
        imports(&tokens(&blank_prose(text)), &module).into_iter().map(|import| (import.line, import.target)).collect();
    let expected =
        [(2, "format"), (2, "sys"), (2, "error"), (6, "read"), (7, "read"), (7, "write"), (7, "read"), (8, "journal")];
    assert_eq!(found, expected.map(|(line, target)| (line, target.to_owned())));
    assert!(!blank_prose(text).contains("unsafe"));

    for (owner, target, allowed) in [
        ("sys", "format", false),
        ("format", "sys", true),
        ("read", "write", true),
        ("write", "read", false),
        ("segment", "segment", true),
        ("segment", "log", false),
        ("segment", "Log", false),
        ("recover", "error", true),
        ("error", "options", false),
        ("journal", "Log", true),
        ("journal", "segment", false),
        ("log", "recover", true),
        ("unheard_of", "error", false),
    ] {
        assert_eq!(may_import(owner, target), allowed, "{owner} imports {target}");
    }
    assert_eq!(module_path("src/read/mod.rs"), ["read"]);
    assert_eq!(module_path("src/log.rs"), ["log"]);
    assert!(module_path("src/lib.rs").is_empty());
    assert!(has_word("a NOTE: b", "NOTE") && !has_word("NOTES", "NOTE") && has_word("x NOTES NOTE", "NOTE"));
}

/// Whether code in the folder or file `owner` of `src/` may name `target`, which stands at the root of the crate.
fn may_import(owner: &str, target: &str) -> bool {
    let layer = |name| LAYERS.iter().position(|layer| *layer == name);
    let shared = target == owner || target == "error" || target == "options";
    match owner {
        "lib" | "log" => true,
        "error" => target == "error",
        // The ranges of some options follow from the format.
        "options" => shared || target == "format",
        // The layer over `Log`: its public names, which lib.rs exports at the root.
        "journal" => shared || target == "log" || target.starts_with(char::is_uppercase),
        _ => layer(owner).is_some_and(|own| shared || layer(target).is_some_and(|other| other < own)),
    }
}

/// A path in the code that starts at the root of the crate, as `crate::…` or by enough `super::`.
struct Import {
    line: usize,
    /// The first name of the path, as seen from the root of the crate.
    target: String,
}

/// Every path in `tokens`, the code of the module `module`, that starts with `crate` or `super`.
fn imports(tokens: &[Token], module: &[String]) -> Vec<Import> {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    // The modules that are open at this point within the file, each with the depth of braces around it.
    let mut inline: Vec<(usize, &str)> = Vec::new();
    let mut depth = 0;
    let mut index = 0;
    while index < tokens.len() {
        let line = tokens[index].line;
        match text(index) {
            "mod" if text(index + 2) == "{" => inline.push((depth, text(index + 1))),
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if inline.last().is_some_and(|(outer, _)| *outer == depth) {
                    inline.pop();
                }
            }
            "crate" if text(index + 1) == "::" => {
                found.extend(first_names(&tokens[index + 2..]).map(|target| Import { line, target }));
            }
            "super" if text(index + 1) == "::" => {
                let mut path: Vec<&str> = module.iter().map(String::as_str).collect();
                path.extend(inline.iter().map(|(_, name)| *name));
                while text(index) == "super" && text(index + 1) == "::" {
                    path.pop();
                    index += 2;
                }
                match path.first() {
                    Some(folder) => found.push(Import { line, target: (*folder).to_owned() }),
                    None => found.extend(first_names(&tokens[index..]).map(|target| Import { line, target })),
                }
                continue;
            }
            _ => {}
        }
        index += 1;
    }
    found
}

/// The names that a path goes on with: one, or those of a group in braces.
fn first_names(tokens: &[Token]) -> impl Iterator<Item = String> + '_ {
    let group = tokens.first().is_some_and(|token| token.text == "{");
    let mut depth = 0;
    let mut ended = false;
    let mut at_start = !group;
    tokens
        .iter()
        .map_while(move |token| {
            if ended {
                return None;
            }
            let starts = at_start && depth == usize::from(group) && token.text != "}";
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            at_start = depth == 1 && (token.text == "{" || token.text == ",");
            ended = depth == 0;
            Some(starts.then(|| token.text.clone()))
        })
        .flatten()
}

/// A word, `::`, or one other character of code.
struct Token {
    line: usize,
    text: String,
}

fn tokens(code: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    for (line, text) in numbered_lines(code) {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = match rest.find(|c: char| !is_word(c)) {
                _ if rest.starts_with("::") => 2,
                Some(0) => first.len_utf8(),
                Some(len) => len,
                None => rest.len(),
            };
            found.push(Token { line, text: rest[..len].to_owned() });
            rest = rest[len..].trim_start();
        }
    }
    found
}

/// `text` with the contents of comments, strings and characters turned into spaces; lines stay where they are.
fn blank_prose(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let len = prose_len(rest, after_word);
        if len == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[len..];
        }
    }
    code
}

/// The bytes of the comment or literal that `text` starts with, or 0.
fn prose_len(text: &str, after_word: bool) -> usize {
    let to_end = |at: Option<usize>, end: &str| at.map_or(text.len(), |at| at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_len(text);
    }
    if text.starts_with('"') {
        return quoted_len(text, '"');
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        // A lifetime has no second quote where a character has one.
        let mut chars = quoted.chars();
        let is_char = chars.next() == Some('\\') || chars.next() == Some('\'');
        return if is_char { quoted_len(text, '\'') } else { 0 };
    }
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r')).filter(|_| !after_word);
    if let Some(raw) = raw {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = text.len() - raw.len() + hashes + 1;
            return to_end(text[start..].find(&end).map(|at| start + at), &end);
        }
    }
    0
}

fn block_comment_len(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands in `text` with no letter or digit next to it.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The modules from the root of the crate to the file at `path`, which starts with `src/`.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|name| !["mod", "lib"].contains(name)).map(str::to_owned).collect()
}

fn numbered_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// A file of text.
struct TextFile {
    /// Relative to the root of the repository.
    path: String,
    text: String,
}

fn source_files() -> Vec<TextFile> {
    let files: Vec<_> = tree_files()
        .into_iter()
        .filter(|file| file.path.starts_with("src/") && has_extension(&file.path, &["rs"]))
        .collect();
    assert!(!files.is_empty(), "no source file was found");
    files
}

/// Every file of text in the repository, but for what `.gitignore` names. Files that are not UTF-8 are no text.
fn tree_files() -> Vec<TextFile> {
    let ignored: Vec<String> = read(".gitignore").lines().map(|line| line.trim_end_matches('/').to_owned()).collect();
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root().join(&folder)).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            let path = folder.join(entry.file_name());
            let name = path.to_string_lossy().into_owned();
            let base = entry.file_name().to_string_lossy().into_owned();
            let is_ignored = ignored.iter().any(|line| *line == format!("/{name}") || *line == base);
            let kind = entry.file_type().unwrap_or_else(|e| panic!("{name}: {e}"));
            if is_ignored || base == ".git" || base == "target" {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(root().join(&path)).unwrap_or_else(|e| panic!("{name}: {e}"));
                found.extend(String::from_utf8(bytes).ok().map(|text| TextFile { path: name, text }));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn has_extension(path: &str, extensions: &[&str]) -> bool {
    Path::new(path).extension().is_some_and(|own| extensions.iter().any(|extension| own == *extension))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with every finding, one a line, under the rule that they break.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}\n", findings.join("\n  "));
}
