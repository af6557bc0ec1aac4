#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| maplog_fuzz::operations::run(bytes));
