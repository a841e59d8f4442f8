//! See `muster_fuzz::strip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_fuzz::strip::run(data));
