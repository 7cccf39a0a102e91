#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tubelet_formats::fuzz::run("parquet", bytes);
});
