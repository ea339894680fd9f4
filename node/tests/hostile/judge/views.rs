//! What the honest nodes think of each other: whatever a hostile member says, none of them is down or has left.

use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;
use p2p_api::client::Client;
use p2p_api::types::{MemberEvent, MemberEventKind, MemberState};
use tokio::task::JoinSet;

/// Slanders that are shown; the rest say the same.
const SLANDERS_MAX: usize = 5;

/// The views of all honest nodes.
pub(crate) struct Views {
    clients: Vec<Client>,
    peers: Vec<String>,
    slanders: Arc<Mutex<Vec<String>>>,
    _watches: JoinSet<()>,
}

impl Views {
    /// Watches nodes that have met.
    pub(crate) async fn open(nodes: [(&Client, PeerId); 3]) -> Self {
        let peers: Vec<String> = nodes.iter().map(|(_, peer)| peer.to_string()).collect();
        let clients: Vec<Client> = nodes.iter().map(|(client, _)| (*client).clone()).collect();
        let (slanders, mut watches) = (Arc::<Mutex<Vec<String>>>::default(), JoinSet::new());
        for (client, by) in clients.iter().zip(&peers) {
            let mut watch = client.watch_members(None).await.expect("it runs");
            let (by, peers, slanders) = (by.clone(), peers.clone(), slanders.clone());
            watches.spawn(async move {
                while let Some(Ok(event)) = watch.next().await {
                    if is_slander(&event, &peers) {
                        slanders.lock().unwrap_or_else(PoisonError::into_inner).push(said(&by, &event));
                    }
                }
            });
        }
        Self { clients, peers, slanders, _watches: watches }
    }

    /// Whether each of them sees all of them.
    ///
    /// # Errors
    /// Who does not see whom.
    pub(crate) async fn are_whole(&self) -> Result<(), String> {
        for (client, by) in self.clients.iter().zip(&self.peers) {
            let seen = client.members().await.map_err(|problem| format!("{by}: {problem}"))?.members;
            for peer in &self.peers {
                let is_here = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
                let found = seen.iter().find(|member| member.peer == *peer);
                if !found.is_some_and(|member| is_here(member.state)) {
                    return Err(format!("{by} sees {peer} as {:?}", found.map(|member| member.state)));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn take_slanders(&self) -> Vec<String> {
        let mut slanders = std::mem::take(&mut *self.slanders.lock().unwrap_or_else(PoisonError::into_inner));
        slanders.truncate(SLANDERS_MAX);
        slanders
    }
}

fn is_slander(event: &MemberEvent, honest: &[String]) -> bool {
    let is_hard = match event.kind {
        MemberEventKind::Down
        | MemberEventKind::Leave
        | MemberEventKind::Isolated
        | MemberEventKind::PutOut => true,
        MemberEventKind::Join
        | MemberEventKind::Return
        | MemberEventKind::Update
        | MemberEventKind::Refute
        | MemberEventKind::Suspect
        | MemberEventKind::Trust
        | MemberEventKind::Connected
        | MemberEventKind::Refuted
        // A watch that was too slow: what it missed shows in the view, if it lasts.
        | MemberEventKind::Gap => false,
    };
    is_hard && honest.contains(&event.peer)
}

fn said(by: &str, event: &MemberEvent) -> String {
    let MemberEvent { kind, peer, incarnation, accusers, .. } = event;
    format!("{by} has {peer} as {} at incarnation {incarnation}: {accusers:?}", kind.word())
}
