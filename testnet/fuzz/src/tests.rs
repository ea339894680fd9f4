//! The promises for random bytes, and for bytes that broke one before.

use proptest::prelude::*;

use super::memory::Watched;
use super::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Longest input, in bytes.
const LEN_MAX: usize = 600;

/// Random bytes, in which lengths and types are small now and then.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![2 => any::<u8>(), 1 => 0_u8..45];
    prop::collection::vec(byte, 0..LEN_MAX)
}

fn check(name: &str, data: &[u8]) {
    Target::named(name).expect("there is such a promise").check(data);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_link_gives_out_what_is_allowed(data in bytes()) {
        check("wire", &data);
    }

    #[test]
    fn a_frame_becomes_a_message_or_is_refused(data in bytes()) {
        check("messages", &data);
    }

    #[test]
    fn a_frame_about_members_is_read_as_it_was_written_or_refused(data in bytes()) {
        check("members", &data);
    }

    #[test]
    fn an_object_has_one_name(data in bytes()) {
        check("objects", &data);
    }

    #[test]
    fn a_get_delivers_the_file_or_nothing(data in bytes()) {
        check("claims", &data);
    }
}

#[test]
fn nothing_is_a_promise_kept() {
    for target in &TARGETS {
        target.check(&[]);
    }
}
