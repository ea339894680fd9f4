//! What a test network can make this node do wrong, and the door by which it asks.
//!
//! The door is open only when the node was started with `--faults` in a home that carries the test network's marker;
//! otherwise nothing of this exists. What is set here is the node's alone and ends with its process: who wants it to begin
//! with faults writes them into the marker.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;
use p2p_api::home::TESTNET_MARKER;
use p2p_api::types;
use p2p_dht::exchange::server;
use tokio::sync::watch;

use crate::error::{StartError, file_error};
use crate::files;
use crate::swarm::cable::Cables;

/// Peers that one node can be cut off from.
const BLOCKED_MAX: usize = 4096;

/// What is wrong with this node on purpose.
#[derive(Debug)]
pub(crate) struct Faults {
    set: Mutex<types::Faults>,
    cables: Arc<Cables>,
    serving: watch::Sender<server::Faults>,
    hide_view: AtomicBool,
}

impl Faults {
    /// The faults that a home's node begins with.
    ///
    /// # Errors
    /// When the home is no test network's, or its marker makes no sense.
    pub(crate) fn of_home(home: &Path) -> Result<Arc<Self>, StartError> {
        let marker = home.join(TESTNET_MARKER);
        let Some(bytes) = files::read_if_there(&marker).map_err(file_error(&marker))? else {
            return Err(StartError::NoTestnet { home: home.to_owned() });
        };
        let cannot = |reason: String| StartError::Home(format!("{} cannot be used: {reason}", marker.display()));
        let wanted = match bytes.trim_ascii() {
            [] => types::Faults::default(),
            text => serde_json::from_slice(text).map_err(|error| cannot(error.to_string()))?,
        };
        let faults = Arc::new(Self {
            set: Mutex::default(),
            cables: Arc::default(),
            serving: watch::Sender::default(),
            hide_view: AtomicBool::new(false),
        });
        faults.set(wanted).map_err(cannot)?;
        Ok(faults)
    }

    /// What is set.
    pub(crate) fn get(&self) -> types::Faults {
        self.lock().clone()
    }

    /// Sets everything at once.
    ///
    /// # Errors
    /// What makes no sense; nothing has changed then.
    pub(crate) fn set(&self, wanted: types::Faults) -> Result<(), String> {
        if wanted.blocked.len() > BLOCKED_MAX {
            return Err(format!("{} blocked peers are more than {BLOCKED_MAX}", wanted.blocked.len()));
        }
        let mut blocked = BTreeSet::new();
        for name in &wanted.blocked {
            blocked.insert(name.parse::<PeerId>().map_err(|_| format!("blocked: {name:?} is no peer id"))?);
        }
        if wanted.rate == Some(0) {
            return Err("rate: 0 bytes a second would be no rate; block peers instead".into());
        }
        let mut set = self.lock();
        self.cables.set(blocked, wanted.rate);
        self.serving.send_replace(server::Faults { corrupt: wanted.corrupt, stall: wanted.stall });
        self.hide_view.store(wanted.hide_view, Ordering::Relaxed);
        if *set != wanted {
            tracing::warn!(?wanted, "faults were set");
            *set = wanted;
        }
        Ok(())
    }

    /// The cables that its connections go by.
    pub(crate) fn cables(&self) -> Arc<Cables> {
        self.cables.clone()
    }

    /// What the server of objects is to do wrong.
    pub(crate) fn serving(&self) -> watch::Receiver<server::Faults> {
        self.serving.subscribe()
    }

    /// Whether the members that are known are kept from those who look for holders.
    pub(crate) fn hides_view(&self) -> bool {
        self.hide_view.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, types::Faults> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_home_with_the_marker_has_faults() {
        let home = tempfile::tempdir().expect("a folder");
        assert!(matches!(Faults::of_home(home.path()), Err(StartError::NoTestnet { .. })));
        let marker = home.path().join(TESTNET_MARKER);
        std::fs::write(&marker, "\n").expect("written");
        assert_eq!(Faults::of_home(home.path()).expect("a test network's").get(), types::Faults::default());
        std::fs::write(&marker, "{\"rate\":5}").expect("written");
        assert_eq!(Faults::of_home(home.path()).expect("a test network's").get().rate, Some(5));
        for wrong in ["{\"rate\":0}", "{\"colour\":1}", "{\"blocked\":[\"me\"]}", "rate=5"] {
            std::fs::write(&marker, wrong).expect("written");
            let error = Faults::of_home(home.path()).expect_err(wrong).to_string();
            assert!(error.contains("testnet cannot be used"), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_changes_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join(TESTNET_MARKER), "").expect("written");
        let faults = Faults::of_home(home.path()).expect("a test network's");
        let set = types::Faults { corrupt: true, ..types::Faults::default() };
        faults.set(set.clone()).expect("fine");
        faults.set(types::Faults { rate: Some(0), ..types::Faults::default() }).expect_err("no rate");
        let many = vec![PeerId::random().to_string(); BLOCKED_MAX + 1];
        faults.set(types::Faults { blocked: many, ..types::Faults::default() }).expect_err("too many");
        assert_eq!(faults.get(), set);
        assert!(faults.serving().borrow().corrupt);
    }
}
