//! See `muster_fuzz::screen`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::screen::run(data));
