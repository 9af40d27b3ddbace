#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wstether::offload::fuzz::offload(data));
