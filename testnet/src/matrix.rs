//! `ps --matrix`: what every running node takes every node for, asked of all at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use futures::future::join_all;
use p2p_api::client::Client;
use p2p_api::types::MemberState;
use serde::Serialize;
use tokio::time::timeout;

use crate::process::Condition;
use crate::state::Dir;
use crate::{Result, launch};

/// How long a node may take to say whom it knows.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Observers whose disagreement is told in words; the others are counted, and stand in the table.
const TOLD_MAX: usize = 5;

/// Everybody's opinion of everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Indices of all nodes, running or not.
    pub nodes: Vec<u32>,
    /// What those who answered take the others and themselves for. Whom one does not know is absent.
    pub views: BTreeMap<u32, BTreeMap<u32, MemberState>>,
    /// Whether every running node takes exactly the running ones for alive.
    pub agreed: bool,
    #[serde(skip)]
    running: BTreeSet<u32>,
}

impl Matrix {
    /// Asks all running nodes of a network.
    ///
    /// # Errors
    /// `not_found` when there is no network. A node that does not answer has no view, and is no error.
    pub async fn of(dir: &Dir) -> Result<Self> {
        let state = dir.load()?;
        let index_of: BTreeMap<&str, u32> = state.nodes.iter().map(|node| (node.peer.as_str(), node.index)).collect();
        let running = state.indices(Condition::Running);
        let asked = running.iter().map(|index| async {
            let client = Client::new(launch::socket(&dir.home(*index)));
            let members = timeout(ANSWER_LIMIT, client.members()).await.ok()?.ok()?.members;
            let of_network = |peer: &str| index_of.get(peer).copied();
            let view = members.iter().filter_map(|member| Some((of_network(&member.peer)?, member.state)));
            Some((*index, view.collect()))
        });
        let views = join_all(asked).await.into_iter().flatten().collect();
        let nodes = state.nodes.iter().map(|node| node.index).collect();
        Ok(Self::new(nodes, running.into_iter().collect(), views))
    }

    fn new(nodes: Vec<u32>, running: BTreeSet<u32>, views: BTreeMap<u32, BTreeMap<u32, MemberState>>) -> Self {
        let mut matrix = Self { nodes, views, agreed: false, running };
        let agreed = matrix.disagreements().next().is_none();
        matrix.agreed = agreed;
        matrix
    }

    /// A table for people, what its letters mean, and whether all agree.
    pub fn text(&self) -> String {
        let width = self.nodes.iter().max().map_or(1, |most| most.to_string().len());
        let mut text = String::new();
        // Digits below each other, so that a column is as wide as its letter.
        for place in 0..width {
            let _ = write!(text, "{:width$} ", "");
            for subject in &self.nodes {
                let digit = format!("{subject:>width$}");
                let _ = write!(text, " {}", &digit[place..=place]);
            }
            text.push('\n');
        }
        for observer in &self.nodes {
            // Writing to a string does not fail.
            let _ = write!(text, "{observer:>width$} ");
            for subject in &self.nodes {
                let _ = write!(text, " {}", self.letter(*observer, *subject));
            }
            text.push('\n');
        }
        text.push_str("rows: who says it; A alive, S suspect, D down, L left, . unknown, - does not answer\n");
        let _ = writeln!(text, "{}", self.verdict());
        text
    }

    fn letter(&self, observer: u32, subject: u32) -> char {
        match self.views.get(&observer).map(|view| view.get(&subject)) {
            None => '-',
            Some(None) => '.',
            Some(Some(MemberState::Alive)) => 'A',
            Some(Some(MemberState::Suspect)) => 'S',
            Some(Some(MemberState::Down)) => 'D',
            Some(Some(MemberState::Left)) => 'L',
        }
    }

    /// Whether all agree; if not, who is wrong about whom.
    pub fn verdict(&self) -> String {
        if self.agreed {
            let running = self.running.len();
            return format!("agreed: each of {running} running nodes takes exactly these for alive");
        }
        let mut told: Vec<String> = self.disagreements().take(TOLD_MAX).collect();
        let more = self.disagreements().count() - told.len();
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        format!("not agreed: {}", told.join("; "))
    }

    /// Running nodes that take others for alive than run, each with those whom it is wrong about.
    fn disagreements(&self) -> impl Iterator<Item = String> + '_ {
        self.running.iter().filter_map(|observer| {
            let Some(view) = self.views.get(observer) else { return Some(format!("node {observer} does not answer")) };
            let mut wrong: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for subject in &self.nodes {
                let state = view.get(subject);
                if (state == Some(&MemberState::Alive)) != self.running.contains(subject) {
                    wrong.entry(state.map_or("unknown", |state| state.word())).or_default().push(subject.to_string());
                }
            }
            let parts: Vec<String> =
                wrong.into_iter().map(|(word, subjects)| format!("{} for {word}", subjects.join(", "))).collect();
            (!parts.is_empty()).then(|| format!("node {observer} takes {}", parts.join(" and ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use MemberState::{Alive, Down, Left, Suspect};

    fn view(states: &[(u32, MemberState)]) -> BTreeMap<u32, MemberState> {
        states.iter().copied().collect()
    }

    #[test]
    fn opinions_are_letters_and_who_is_wrong_about_whom_is_said() {
        let views = [
            (0, view(&[(0, Alive), (1, Suspect), (2, Down), (3, Left)])),
            (3, view(&[(0, Alive), (2, Alive), (3, Alive)])),
        ];
        let matrix = Matrix::new(vec![0, 1, 2, 3], [0, 1, 3].into(), views.into());
        assert!(!matrix.agreed);
        let lines: Vec<String> = matrix.text().lines().map(str::to_owned).collect();
        assert_eq!(lines[..5], ["   0 1 2 3", "0  A S D L", "1  - - - -", "2  - - - -", "3  A . A A"]);
        let told = "not agreed: node 0 takes 3 for left and 1 for suspect; node 1 does not answer; \
                    node 3 takes 2 for alive and 1 for unknown";
        assert_eq!(lines[6], told);
    }

    #[test]
    fn all_agree_when_each_takes_exactly_the_running_ones_for_alive() {
        let same = view(&[(9, Alive), (10, Alive), (11, Down)]);
        let views = || BTreeMap::from([(9, same.clone()), (10, same.clone())]);
        let matrix = Matrix::new(vec![9, 10, 11], [9, 10].into(), views());
        assert!(matrix.agreed);
        assert!(matrix.text().starts_with("      1 1\n    9 0 1\n 9  A A D\n"), "{}", matrix.text());
        assert!(matrix.text().ends_with("agreed: each of 2 running nodes takes exactly these for alive\n"));
        assert!(!Matrix::new(vec![9, 10, 11], [9, 10, 11].into(), views()).agreed, "one that runs does not answer");
        let document = serde_json::to_value(&matrix).expect("plain data");
        let expected = serde_json::json!({
            "nodes": [9, 10, 11],
            "views": {"9": {"9": "alive", "10": "alive", "11": "down"}, "10": {"9": "alive", "10": "alive", "11": "down"}},
            "agreed": true,
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn of_many_who_disagree_the_first_are_named() {
        let nodes: Vec<u32> = (0..20).collect();
        let matrix = Matrix::new(nodes.clone(), nodes.into_iter().collect(), BTreeMap::new());
        assert!(matrix.text().ends_with("node 4 does not answer; and 15 more\n"), "{}", matrix.text());
    }
}
