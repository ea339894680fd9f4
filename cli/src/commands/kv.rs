//! `kv`: the replicated map.

mod ls;
mod write;

use std::path::Path;

use p2p_api::text::shell_word;
use p2p_api::types::KvEntry;
use p2p_api::{Code, Problem};

use super::Context;
use crate::args::{self, KvCommand};

pub(super) async fn run(context: &Context, args: &args::Kv) -> Result<(), Problem> {
    match &args.command {
        KvCommand::Put(args) => write::put(context, args).await,
        KvCommand::Get(args) => get(context, &args.key).await,
        KvCommand::Del(args) => write::del(context, args).await,
        KvCommand::Ls(args) => ls::run(context, args).await,
        KvCommand::Watch(args) => watch(context, args).await,
    }
}

async fn get(context: &Context, key: &args::Key) -> Result<(), Problem> {
    let entry = context.quick(context.client.kv_get(key.as_str())).await?;
    context.output.document(&entry)?;
    let value = only_value(&entry)?;
    if context.output.is_json() { Ok(()) } else { context.output.bytes(&value) }
}

/// The value of a key that has one.
fn only_value(entry: &KvEntry) -> Result<Vec<u8>, Problem> {
    let KvEntry { key, siblings, .. } = entry;
    match siblings.as_slice() {
        [] => Err(Problem::new(Code::NotFound, format!("nothing stands at {key}"))),
        [sibling] => sibling.bytes().ok_or_else(|| {
            Problem::new(Code::Other, format!("the node's answer cannot be read: what stands at {key} is not base64"))
                .hint("Are node and command line of the same version?")
        }),
        several => {
            let message = format!("{} values stand beside each other at {key}", several.len());
            let key = shell_word(Path::new(key));
            Err(Problem::new(Code::Conflict, message).hint(format!(
                "`p2p-cli --json kv get {key}` shows them, and the token T with which \
                 `p2p-cli kv put {key} VALUE --token T` puts one in their place."
            )))
        }
    }
}

async fn watch(context: &Context, args: &args::Watch) -> Result<(), Problem> {
    let events = context.quick(context.client.watch_kv(&args.prefix, args.since.as_deref())).await?;
    context.print_events(events).await
}

#[cfg(test)]
mod tests {
    use p2p_api::types::KvSibling;

    use super::*;

    #[test]
    fn of_several_values_none_is_the_value() {
        let entry = |values: &[&[u8]]| KvEntry {
            key: "my color".into(),
            token: "aa".into(),
            siblings: values.iter().map(|value| KvSibling::new(value, "dot".into())).collect(),
        };
        assert_eq!(only_value(&entry(&[b"a\xff\n"])), Ok(b"a\xff\n".to_vec()));
        assert_eq!(only_value(&entry(&[])).expect_err("nothing").code, Code::NotFound);
        let problem = only_value(&entry(&[b"blue", b"red", b"red"])).expect_err("none is the one");
        assert_eq!((problem.code, problem.message.starts_with("3 values")), (Code::Conflict, true));
        let hint = problem.hint.expect("what to do");
        assert!(hint.contains("p2p-cli --json kv get 'my color'"), "{hint}");
        assert!(hint.contains("p2p-cli kv put 'my color' VALUE --token T"), "{hint}");
    }
}
