//! Names for content: keys of the replicated map under which addresses stand.

use p2p_api::types::{KvEntry, KvSibling};
use p2p_api::{Code, Problem};

use super::Context;
use crate::args::{Address, ContentRef};

/// The address of content, looked up where it goes by a name.
pub(super) async fn address_of(context: &Context, content: &ContentRef) -> Result<Address, Problem> {
    match content {
        ContentRef::Address(address) => Ok(address.clone()),
        ContentRef::Name(key) => match context.quick(context.client.kv_get(key)).await {
            Err(problem) if problem.code == Code::NotFound => Err(no_such_name(key)),
            Err(problem) => Err(problem),
            Ok(entry) => only_address(&entry),
        },
    }
}

fn only_address(entry: &KvEntry) -> Result<Address, Problem> {
    let key = &entry.key;
    match entry.siblings.as_slice() {
        [] => Err(no_such_name(key)),
        [sibling] => address(sibling).ok_or_else(|| {
            Problem::new(Code::Integrity, format!("what stands at {key} is no address"))
                .hint("p2p-cli --json kv get shows it.")
        }),
        several => {
            let shown = |sibling| address(sibling).map_or_else(|| "no address".to_owned(), |it| it.as_str().to_owned());
            let addresses: Vec<String> = several.iter().map(shown).collect();
            let message = format!(
                "{key} was given to {} contents by nodes that did not know of each other: {}",
                several.len(),
                addresses.join(", ")
            );
            Err(Problem::new(Code::Conflict, message).hint("p2p-cli get ADDRESS, with the one that is meant"))
        }
    }
}

fn address(sibling: &KvSibling) -> Option<Address> {
    String::from_utf8(sibling.bytes()?).ok()?.parse().ok()
}

fn no_such_name(key: &str) -> Problem {
    Problem::new(Code::NotFound, format!("no such name: {key}")).hint("p2p-cli kv ls name/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    const B: &str = "0f1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn entry(values: &[&[u8]]) -> KvEntry {
        let siblings = values.iter().map(|value| KvSibling::new(value, "dot".into())).collect();
        KvEntry { key: "name/notes".into(), token: "aa".into(), siblings }
    }

    #[test]
    fn a_name_leads_to_one_address_or_nowhere() {
        let of = |values: &[&[u8]]| only_address(&entry(values)).map(|address| address.as_str().to_owned());
        assert_eq!(of(&[A.as_bytes()]), Ok(A.to_owned()));
        let code = |values: &[&[u8]]| of(values).map_err(|problem| problem.code);
        assert_eq!(code(&[]), Err(Code::NotFound));
        for wrong in [&b""[..], b"text", b"\xff", &A.as_bytes()[1..], format!("{A}\n").as_bytes()] {
            assert_eq!(code(&[wrong]), Err(Code::Integrity));
        }
        let several = of(&[A.as_bytes(), B.as_bytes()]).expect_err("two are not one");
        assert_eq!(several.code, Code::Conflict);
        assert!(several.message.contains(A) && several.message.contains(B), "{}", several.message);
        assert_eq!(code(&[A.as_bytes(), b"text"]), Err(Code::Conflict));
    }
}
