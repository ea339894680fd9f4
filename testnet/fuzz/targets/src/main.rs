//! One promise of `p2p-fuzz`, the one this program is named after, for a fuzzer to break.
#![no_main]

use std::sync::LazyLock;

use p2p_fuzz::Target;
use p2p_fuzz::memory::Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

static TARGET: LazyLock<&Target> =
    LazyLock::new(|| Target::named(env!("CARGO_BIN_NAME")).expect("each program has the name of a promise"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.check(data));
