#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = lowrank_fuzz::run(lowrank_fuzz::reader("index"), bytes);
});
