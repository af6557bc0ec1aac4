//! All integration tests, in one binary. Each module says what it is about.

mod basics;
mod tidy;
