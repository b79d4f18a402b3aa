#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zmqgame_fuzz_bodies::check("proxy_v2", data));
