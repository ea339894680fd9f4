//! From connections to inputs of the machine: edges that come and go, and frames on them.

use std::time::Duration;

use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use p2p_gossip::kv::message as map_message;
use p2p_gossip::swim::{Input, Member, Message, Name, codec};
use p2p_gossip::wire::edges::Dial;
use p2p_gossip::wire::hello::Versions;
use p2p_gossip::wire::link::CREDIT_MIN;
use p2p_gossip::wire::{Cap, EdgeEvent, Frame, Hello, LinkConfig, Opened};

use super::edge::{self, EdgeNews, Outbox, Told};
use super::{Connection, Edge, Membership, Net, contacts, dial_time_max};
use crate::kv::Edge as MapEdge;
use crate::swarm::counters::count;
use crate::swarm::outcome::DialFailure;

/// Versions of the protocol that this node speaks.
const VERSIONS: Versions = Versions { min: 1, max: 1 };

/// Longest time in which nothing that is to be sent moves: a process that stands still for as long as that is not waited for.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Two connections of one pair that come about within this time were dialed at the same time, one by each.
const CROSSING_TIME: Duration = Duration::from_secs(2);

/// Who is still reading so much is not asked for a comparison again.
const COMPARED_LEN_MAX: usize = 1 << 20;

/// Whoever is hostile is that over and over: it is warned of so often.
const WARN_PERIOD: Duration = Duration::from_secs(10);

/// How long frames of each type may be on an edge.
fn caps(kind: u8) -> Option<Cap> {
    codec::caps(kind).or_else(|| map_message::caps(kind))
}

impl Membership {
    /// The swarm could not make a connection that is an edge's.
    pub(crate) fn dial_failed(&mut self, net: &mut Net<'_>, dial: Dial, failure: &DialFailure) {
        let Dial { peer, keep, again, .. } = dial;
        let DialFailure { outcome, refused, broke_off } = failure;
        let Some(member) = self.known(&peer) else { return };
        if *broke_off && keep && !again {
            // A process that ends closes one socket after the other: this one was accepted by a listener that is gone now.
            return net.edges.dial_again(peer, self.addresses_of(member, &peer));
        }
        self.contacts.peer_failed(&peer, *outcome);
        self.shown.changed();
        if !keep {
            return self.handle(net, Input::Reached(member, false));
        }
        // Refused elsewhere than where it was reached says nothing of its process.
        let is_refused = self.reached.get(&member).is_some_and(|reached| refused.contains(reached));
        self.handle(net, if is_refused { Input::Refused(member) } else { Input::Unanswered(member) });
    }

    /// Something has happened to an edge's connection.
    pub(crate) fn on_edge(&mut self, net: &mut Net<'_>, event: EdgeEvent) {
        match event {
            EdgeEvent::Opened(opened) => self.on_opened(net, opened),
            EdgeEvent::Closed(_, connection) => self.on_ended(net, connection),
            EdgeEvent::Failed(peer) => {
                self.contacts.peer_failed(&peer, contacts::DialOutcome::NoAnswer);
                if let Some(member) = self.known(&peer) {
                    self.handle(net, Input::Unanswered(member));
                }
            }
            EdgeEvent::Reached(peer, address) => {
                let Some(member) = self.known(&peer) else { return };
                let reached = address.is_some();
                if let Some(address) = address {
                    self.reached.insert(member, contacts::split_peer(&address).0);
                }
                self.handle(net, Input::Reached(member, reached));
            }
        }
    }

    /// An edge has something to tell.
    pub(crate) fn on_news(&mut self, net: &mut Net<'_>, news: EdgeNews) {
        match news {
            EdgeNews::Ready(connection, outbox, has_map) => self.on_ready(net, connection, outbox, has_map),
            EdgeNews::Frame(connection, frame) => self.on_frame(net, connection, &frame),
            EdgeNews::Ended(connection, reason) => {
                let Some(Connection { peer, .. }) = self.connections.get(&connection) else { return };
                let peer = *peer;
                if let Some(reason) = reason {
                    count(&self.counters.edges_broken);
                    tracing::debug!(%peer, %reason, "an edge has ended");
                }
                net.edges.close(peer, connection);
                self.on_ended(net, connection);
            }
        }
    }

    fn on_opened(&mut self, net: &mut Net<'_>, opened: Opened) {
        let Opened { peer, connection, dialed, stream, .. } = opened;
        let Some(member) = self.member_of(&peer) else {
            count(&self.counters.names_refused);
            return net.edges.close(peer, connection);
        };
        self.connections.insert(connection, Connection { member, peer, dialed });
        let capabilities = map_message::CAPABILITY;
        let hello = Hello { cluster: self.cluster, versions: VERSIONS, capabilities, credit: CREDIT_MIN };
        let config = LinkConfig { hello, caps, stall: STALL_MAX };
        let outbox = Outbox::new(self.waiting.clone());
        let name = *self.directory.name(member);
        let told = Told { name, news: self.news.clone(), map: self.map.clone() };
        tokio::spawn(edge::run(stream, config, connection, outbox, dial_time_max(&self.config), told));
    }

    fn on_ready(&mut self, net: &mut Net<'_>, connection: ConnectionId, outbox: Outbox, has_map: bool) {
        let Some(Connection { member, peer, dialed }) = self.connections.get(&connection) else {
            return outbox.close();
        };
        let (member, peer, dialed) = (*member, *peer, dialed.clone());
        let (now, is_dialed) = (self.now(), dialed.is_some());
        if let Some(old) = self.edges.get(&member) {
            let crossing = old.dialed != is_dialed && now.since(old.since) < CROSSING_TIME;
            // Both ends keep the one that was dialed by the smaller; of others the newer, which its dialer lacked.
            if crossing && is_dialed != self.is_first(member) {
                self.connections.remove(&connection);
                outbox.close();
                return net.edges.close(peer, connection);
            }
            self.drop_edge(net, member);
            self.inputs.push_back(Input::Closed(member));
        }
        if let Some(address) = dialed {
            self.reached.insert(member, contacts::split_peer(&address).0);
        }
        if has_map {
            self.map.tell(MapEdge::Up(*self.directory.name(member), outbox.clone()));
        }
        self.edges.insert(member, Edge { connection, outbox, dialed: is_dialed, since: now });
        self.handle(net, Input::Opened { member, dialed: is_dialed });
    }

    fn is_first(&self, other: Member) -> bool {
        Name::of_peer(&self.me).is_some_and(|me| me < *self.directory.name(other))
    }

    fn on_frame(&mut self, net: &mut Net<'_>, connection: ConnectionId, frame: &Frame) {
        let Some(Connection { member, peer, .. }) = self.connections.get(&connection) else { return };
        let (member, peer) = (*member, *peer);
        let Some(edge) = self.edges.get(&member).filter(|edge| edge.connection == connection) else { return };
        let message = match Message::from_frame(frame, &self.directory) {
            Ok(Some(message)) => message,
            Ok(None) => return count(&self.counters.names_unknown),
            Err(error) => {
                count(&self.counters.edges_broken);
                tracing::debug!(%peer, %error, "a member makes no sense");
                return self.cut(net, member);
            }
        };
        if matches!(message, Message::Sums(_)) && edge.outbox.len() > COMPARED_LEN_MAX {
            return count(&self.counters.comparisons_refused);
        }
        let forged = self.machine.counters().forged;
        self.handle(net, Input::Frame(member, message));
        if self.machine.counters().forged != forged {
            // Whoever passes something on has checked it.
            self.warn_of_forger(&peer);
            self.cut(net, member);
        }
    }

    fn warn_of_forger(&mut self, peer: &PeerId) {
        let now = self.now();
        if self.warned_at.is_none_or(|warned_at| now.since(warned_at) >= WARN_PERIOD) {
            self.warned_at = Some(now);
            tracing::warn!(%peer, "a member has sent what nobody has signed");
        } else {
            tracing::debug!(%peer, "a member has sent what nobody has signed");
        }
    }

    /// A connection is gone.
    fn on_ended(&mut self, net: &mut Net<'_>, connection: ConnectionId) {
        let Some(Connection { member, dialed, .. }) = self.connections.remove(&connection) else { return };
        if self.edges.get(&member).is_some_and(|edge| edge.connection == connection) {
            self.drop_edge(net, member);
            return self.handle(net, Input::Closed(member));
        }
        self.leave_idle(member);
        if dialed.is_some() && !self.edges.contains_key(&member) {
            self.handle(net, Input::Unanswered(member));
        }
    }

    /// Ends an edge for what came over it.
    fn cut(&mut self, net: &mut Net<'_>, member: Member) {
        if self.edges.contains_key(&member) {
            self.drop_edge(net, member);
            self.handle(net, Input::Closed(member));
        }
    }

    pub(super) fn drop_edge(&mut self, net: &mut Net<'_>, member: Member) {
        let Some(Edge { connection, outbox, .. }) = self.edges.remove(&member) else { return };
        outbox.close();
        self.map.tell(MapEdge::Down(*self.directory.name(member)));
        if let Some(Connection { peer, .. }) = self.connections.remove(&connection) {
            net.edges.close(peer, connection);
        }
        self.leave_idle(member);
    }
}
