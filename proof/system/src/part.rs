//! A part of the work: K/N on the command line.

/// Reads `K/N`, where K is below N.
pub fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(k, n)| k < n).ok_or_else(|| "two numbers, K/N, and K is below N".into())
}
