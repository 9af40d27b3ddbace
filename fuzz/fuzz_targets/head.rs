#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstether::http::fuzz::head(data));
