#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;

static QUIET: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    // The Parquet library panics on some damaged files, which is caught and an error; the fuzzer's own
    // hook would end there. What nobody catches still ends it.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    tubelet_formats::fuzz::run("parquet", bytes);
});
