#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zmqgame_fuzz_bodies::check("websocket", data));
