//! `members`: who is in the cluster, or what happens to them.

use std::fmt::Write as _;

use p2p_api::Problem;
use p2p_api::text::plain;
use p2p_api::types::{Member, Members};

use super::Context;
use crate::args;

pub(super) async fn run(context: &Context, args: &args::Members) -> Result<(), Problem> {
    if args.watch {
        let events = context.quick(context.client.watch_members(args.since.as_deref())).await?;
        return context.print_events(events).await;
    }
    let members = context.quick(context.client.members()).await?;
    context.output.result(&members, &text(&members))
}

fn text(Members { members }: &Members) -> String {
    let mut rows = vec![["state", "name", "peer", "rtt", "since", "tags"].map(str::to_owned)];
    rows.extend(members.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        let end = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{end}{}", line.trim_end());
    }
    text
}

fn row(member: &Member) -> [String; 6] {
    let tags: Vec<String> = member.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    [
        member.state.word().to_owned(),
        plain(&member.name),
        member.peer.clone(),
        member.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
        member.since.clone(),
        plain(&tags.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use p2p_api::types::MemberState;

    use super::*;

    #[test]
    fn members_stand_in_columns() {
        let member = |name: &str, rtt_ms| Member {
            peer: "12D3".into(),
            name: name.into(),
            state: MemberState::Alive,
            since: "2026-01-01T00:00:00Z".into(),
            rtt_ms,
            addresses: Vec::new(),
            tags: [("rack".to_owned(), "4".to_owned())].into(),
            fill: 0,
            generation: 1,
            incarnation: 0,
        };
        let members = Members { members: vec![member("a", Some(0.25)), member("longer\u{1b}[2J", None)] };
        let text = text(&members);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "alive  a           12D3  0.2 ms  2026-01-01T00:00:00Z  rack=4");
        assert!(lines[0].starts_with("state  name") && lines[2].contains("12D3  -"), "{text}");
        assert!(!text.contains('\u{1b}'), "what others say does not move the cursor");
    }
}
