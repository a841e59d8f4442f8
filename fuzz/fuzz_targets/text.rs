//! See `muster_fuzz::text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::text::run(data));
