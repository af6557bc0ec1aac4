//! The system calls of one thread, as strace wrote them down, and which of them the library made.

use std::collections::BTreeSet;
use std::path::Path;

/// A call on a log's files, directories or mappings.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    /// The how manieth call of that name the thread made since it is traced, whoever asked for it: that is how strace counts.
    pub nth: u32,
    /// The file, from the log's directory on; empty if the call names none.
    pub path: String,
    /// It may make a file or a name.
    pub creates: bool,
    /// Seconds since 1970.
    pub at: f64,
    /// strace made it fail, or the process did not survive it.
    pub is_hit: bool,
}

/// The library's calls among the lines of a trace of the log in `dir`, from `start` on: what lies before is the loader's. Of the calls
/// that name no file, those on memory that the thread has mapped for itself are the allocator's.
pub fn calls(text: &str, dir: &Path, start: f64) -> Vec<Call> {
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    let mut anonymous = BTreeSet::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((at, name, rest)) = split(line) else { continue };
        let nth = counts.entry(name).or_default();
        *nth += 1;
        let address = rest.split([',', ')']).next().unwrap_or_default();
        let is_anonymous = anonymous.contains(address);
        if name == "mmap" && rest.contains("MAP_ANONYMOUS") {
            anonymous.extend(rest.rsplit_once("= ").map(|(_, address)| address));
        }
        let path = match name {
            "msync" | "clone3" | "clone" => Some(String::new()),
            "madvise" => rest.contains("MADV_POPULATE").then(String::new),
            "munmap" => (!is_anonymous).then(String::new),
            _ => path(rest, dir),
        };
        if let Some(path) = path.filter(|_| at >= start) {
            let is_hit =
                rest.contains("(INJECTED)") || rest.contains("<unfinished ...>") || rest.trim_end().ends_with("= ?");
            let creates = rest.contains("O_CREAT");
            calls.push(Call { name: name.to_owned(), nth: *nth, path, creates, at, is_hit });
        }
    }
    calls
}

/// The time of a line, the call's name, and what stands behind the opening bracket.
fn split(line: &str) -> Option<(f64, &str, &str)> {
    let (at, call) = line.split_once(' ')?;
    let (name, rest) = call.trim_start().split_once('(')?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    Some((at.parse().ok()?, name, rest)).filter(|_| is_name)
}

/// The file that the arguments name, if it is the log's, or a directory above it.
fn path(arguments: &str, dir: &Path) -> Option<String> {
    // By its name, or by a descriptor: `3</file>`, in mmap behind other arguments.
    let named = match arguments.split_once('"') {
        Some((before, rest)) if !before.starts_with(|c: char| c.is_ascii_digit()) => rest.split('"').next()?,
        _ => {
            let (before, rest) = arguments.split_once('<')?;
            before.ends_with(|c: char| c.is_ascii_digit()).then_some(())?;
            rest.split('>').next()?
        }
    };
    relative(named.trim_end_matches(" (deleted)"), dir)
}

fn relative(path: &str, dir: &Path) -> Option<String> {
    let path = Path::new(path);
    if let Ok(inside) = path.strip_prefix(dir) {
        return Some(inside.display().to_string()).map(|path| if path.is_empty() { ".".into() } else { path });
    }
    let above = dir.ancestors().position(|ancestor| ancestor == path)?;
    Some(vec![".."; above].join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_library_are_told_from_those_of_others() {
        let text = r#"1.0 openat(AT_FDCWD</x>, "/lib/libc.so", O_RDONLY) = 3</lib/libc.so>
2.0 openat(AT_FDCWD</x>, "/t/log/lock", O_RDWR|O_CREAT|O_CLOEXEC, 0666) = 5</t/log/lock>
2.1 mmap(NULL, 8192, PROT_READ, MAP_SHARED, 6</t/log/segments/wal-000001.log>, 0) = 0x7000
2.2 mmap(NULL, 135168, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x9000
2.3 munmap(0x9000, 135168) = 0
2.4 munmap(0x7000, 8192) = 0
2.5 write(1<pipe:[7]>, "x", 1) = 1
2.5 pwrite64(5</t/log/lock>, "/tmp", 4, 0) = 4
2.6 openat(AT_FDCWD</x>, "/t", O_RDONLY|O_CLOEXEC) = 7</t>
2.7 fsync(7</t>) = -1 EIO (Input/output error) (INJECTED)
+++ exited with 0 +++
"#;
        let calls = calls(text, Path::new("/t/log"), 1.5);
        let seen: Vec<_> = calls.iter().map(|call| (call.name.as_str(), call.nth, call.path.as_str())).collect();
        let expected = [
            ("openat", 2, "lock"),
            ("mmap", 1, "segments/wal-000001.log"),
            ("munmap", 2, ""),
            ("pwrite64", 1, "lock"),
            ("openat", 3, ".."),
            ("fsync", 1, ".."),
        ];
        assert_eq!(seen, expected);
        assert!(calls[0].creates && calls[5].is_hit && !calls[4].is_hit);
    }
}
