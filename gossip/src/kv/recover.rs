//! Building a store again from what is left of it.
//!
//! Every write that can still be read, be it in a row or in the log, is taken in as a write by an empty store, whose vector
//! then names them alone: it is whole again, only behind, and asks and answers as any. What it has forgotten it does not claim
//! to have seen, so that others tell it; what it alone had is in its vector, so that others ask for it.

use bytes::{Bytes, BytesMut};

use super::key::Key;
use super::op::Op;
use super::place::Place;
use super::replica::{Epochs, ROWS_AT_ONCE, Replica, Trouble, unsealed};
use super::row;
use super::store::KvTx;
use crate::swim::Name;

impl Replica {
    /// Builds the copy in a store again. The node writes under a name that was never used, as after a start. It may drop
    /// nothing from the log until it has been compared with another.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub fn recover<T: KvTx>(tx: &mut T, peer: Name, epochs: Epochs) -> Result<Self, Trouble<T::Error>> {
        let mut replica = Self::empty(peer, epochs);
        tx.set_aside()?;
        tx.set_behind(true)?;
        let mut last: (Place, Option<Key>) = (Place(0), None);
        loop {
            let rows = tx.rows_aside(last.0, last.1.as_ref(), ROWS_AT_ONCE)?;
            let Some((place, key, _)) = rows.last() else { break };
            last = (*place, Some(key.clone()));
            for (_, key, row) in rows {
                let siblings = row::decode(&key, &row).map(|(entry, _)| entry.into_siblings()).unwrap_or_default();
                for sibling in siblings {
                    let (dot, replaces) = (sibling.dot, sibling.replaces);
                    let op = Op { dot, key: key.clone(), value: Some(sibling.value), replaces };
                    let mut bytes = BytesMut::new();
                    op.encode(&mut bytes);
                    replica.salvage(tx, &op, &bytes.freeze())?;
                }
            }
        }
        let mut next = 0;
        loop {
            let log = tx.log_aside(next, ROWS_AT_ONCE)?;
            let Some((place, _)) = log.last() else { break };
            next = place + 1;
            for (_, kept) in log {
                if let Some((op, bytes)) = unsealed(&kept) {
                    replica.salvage(tx, &op, &bytes)?;
                }
            }
        }
        tx.clear_aside()?;
        Ok(replica)
    }

    fn salvage<T: KvTx>(&mut self, tx: &mut T, op: &Op, bytes: &Bytes) -> Result<(), Trouble<T::Error>> {
        if self.vector().contains(&op.dot) { Ok(()) } else { self.take_in(tx, op, bytes).map(drop) }
    }
}
