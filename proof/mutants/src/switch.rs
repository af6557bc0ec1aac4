
/// Which mutant this process has, by its number; 0: none. What the tests reach of them is noted if somebody asks for it.
pub(crate) fn mutant(site: usize) -> usize {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::OnceLock;
    static MUTANT: OnceLock<usize> = OnceLock::new();
    static REACHED: OnceLock<Option<std::fs::File>> = OnceLock::new();
    static NOTED: [AtomicBool; 1 << 14] = [const { AtomicBool::new(false) }; 1 << 14];
    let reached = REACHED.get_or_init(|| {
        let path = std::env::var_os("MUTANTS_REACHED")?;
        Some(std::fs::OpenOptions::new().append(true).open(path).expect("the file of reached sites"))
    });
    if let Some(mut file) = reached.as_ref() {
        if !NOTED[site].swap(true, Ordering::Relaxed) {
            std::io::Write::write_all(&mut file, format!("{site}\n").as_bytes()).expect("a note");
        }
    }
    *MUTANT.get_or_init(|| std::env::var("MUTANT").map_or(0, |number| number.parse().expect("a number")))
}
