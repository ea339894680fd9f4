//! The local API of a node: what travels over its Unix socket, and nothing else.
//!
//! Both sides use these types, so a field exists once. [`code`] holds the error codes with their exit codes and HTTP
//! statuses, [`types`] the JSON documents, [`range`] parts of files, [`bench`] what measurements print, [`text`] how things
//! are said to people, [`home`] where a home and its socket are found, and [`client`] (feature `client`) the typed client.

pub mod bench;
#[cfg(feature = "client")]
pub mod client;
pub mod code;
pub mod home;
pub mod range;
pub mod text;
pub mod types;

pub use code::Code;
pub use range::ByteRange;
pub use types::Problem;
