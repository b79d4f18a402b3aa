#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| zmqgame_fuzz_bodies::check("mailbox_log", data));
