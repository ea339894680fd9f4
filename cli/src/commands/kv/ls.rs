//! `kv ls`: keys, page by page.

use std::fmt::Write as _;
use std::path::Path;

use p2p_api::Problem;
use p2p_api::text::{plain, shell_word};
use p2p_api::types::{KEYS_AT_ONCE_MAX, KvKey, KvKeys};

use super::Context;
use crate::args;

pub(super) async fn run(context: &Context, args: &args::Ls) -> Result<(), Problem> {
    let mut listed = KvKeys { keys: Vec::new(), next: args.after.clone() };
    let mut left = args.limit;
    loop {
        let limit = left.map_or(KEYS_AT_ONCE_MAX, |left| left.min(KEYS_AT_ONCE_MAX));
        let page = context.client.kv_keys(&args.prefix, listed.next.as_deref(), Some(limit));
        let KvKeys { mut keys, next } = context.quick(page).await?;
        // A page without keys brings no end nearer.
        let is_last = keys.is_empty() || next.is_none();
        left = left.map(|left| left.saturating_sub(u32::try_from(keys.len()).unwrap_or(u32::MAX)));
        listed.next = next;
        if context.output.is_json() {
            listed.keys.append(&mut keys);
        } else if !keys.is_empty() && !context.output.text(&text(&keys))? {
            return Ok(());
        }
        if is_last || left == Some(0) {
            break;
        }
    }
    if let Some(next) = &listed.next {
        context.output.note(&format!("more keys follow: --after {}", shell_word(Path::new(next))));
    }
    context.output.document(&listed)
}

fn text(keys: &[KvKey]) -> String {
    let mut text = String::new();
    for KvKey { key, siblings } in keys {
        let end = if text.is_empty() { "" } else { "\n" };
        // A line is a key, so that a line break within one must not make another.
        let key = plain(key).replace('\n', &char::REPLACEMENT_CHARACTER.to_string());
        // Writing to a string cannot fail.
        let _ = write!(text, "{end}{key}");
        if *siblings > 1 {
            let _ = write!(text, "\t{siblings} values");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_line_whatever_is_in_it() {
        let key = |key: &str, siblings| KvKey { key: key.to_owned(), siblings };
        let keys = [key("color", 1), key("a\tb\nc\u{1b}[2J", 2), key("z", 1)];
        assert_eq!(text(&keys), "color\na\u{fffd}b\u{fffd}c\u{fffd}[2J\t2 values\nz");
    }
}
