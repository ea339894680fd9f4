//! Mechanism for talking to a peer: frames, codec, hello, and a link with credit over one long-lived stream.
//!
//! ```text
//! Control::open ──> Streams (behaviour) ──> one substream ──> Link: hello, then frames both ways
//! ```
//!
//! A peer is never trusted: every length is checked against a named cap before anything is allocated for it, a frame that
//! has begun must end in bounded time, and what a peer may send without being read is bounded by the credit it was given.

pub mod buffer;
pub mod codec;
pub mod edges;
pub mod frame;
pub mod hello;
pub mod host;
pub mod link;
pub mod room;
pub mod streams;

pub use buffer::Buffer;
pub use codec::{DecodeError, List, decode, encode};
pub use edges::{EdgeEvent, Edges, Opened, Reserved};
pub use frame::{Cap, Frame, FrameError, WRITE_LEN_MAX};
pub use hello::{ClusterId, Hello, Versions};
pub use host::host_of;
pub use link::{Link, LinkConfig, LinkError, Received};
pub use room::{Room, Tenant};
pub use streams::{Arrived, Control, OpenError, Streams};
