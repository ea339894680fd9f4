//! Reads what a node goes on telling: server-sent events (HTML, section 9.2), each with one JSON document.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::ANSWER_LEN_MAX;
use crate::{Code, Problem};

/// Longest event that is read, in bytes: all that stands at a key may be as long as when it is asked for.
const EVENT_LEN_MAX: usize = ANSWER_LEN_MAX;

/// Events as they come.
pub struct Watch<T> {
    body: Incoming,
    buffer: Buffer,
    event: PhantomData<T>,
}

impl<T: DeserializeOwned> Watch<T> {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: Buffer::default(), event: PhantomData }
    }

    /// The next event; None once the node has stopped to tell any.
    ///
    /// # Errors
    /// When the node broke off, or what it told cannot be read.
    pub async fn next(&mut self) -> Option<Result<T, Problem>> {
        loop {
            while let Some(event) = self.buffer.take_event() {
                if let Some(json) = data(&event) {
                    let read = serde_json::from_str(&json);
                    return Some(read.map_err(|error| broken(&format!("an event cannot be read: {error}"))));
                }
            }
            if self.buffer.bytes.len() > EVENT_LEN_MAX {
                return Some(Err(broken("an event has no end")));
            }
            match self.body.frame().await? {
                Ok(frame) => self.buffer.bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(error) => return Some(Err(broken(&error.to_string()))),
            }
        }
    }
}

fn broken(reason: &str) -> Problem {
    Problem::new(Code::Unreachable, format!("the node broke off: {reason}"))
        .hint("It may have been stopped; watch again with --since and the id of the last event.")
}

/// What has come and was not taken.
#[derive(Default)]
struct Buffer {
    bytes: BytesMut,
    /// How many of them were searched: a long event comes in many pieces.
    searched: usize,
}

impl Buffer {
    /// The next event, up to its empty line.
    fn take_event(&mut self) -> Option<BytesMut> {
        let found = self.bytes[self.searched..].windows(2).position(|pair| pair == b"\n\n");
        let Some(found) = found else {
            // The last one may be the first half of an end.
            self.searched = self.bytes.len().saturating_sub(1);
            return None;
        };
        let event = self.bytes.split_to(self.searched + found);
        self.bytes.advance(2);
        self.searched = 0;
        Some(event)
    }
}

/// The lines of data of an event; None of one that only shows that the other is there.
fn data(event: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(event);
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data:")).collect();
    (!lines.is_empty())
        .then(|| lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_and_what_keeps_the_line_open_is_none() {
        let mut buffer = Buffer::default();
        buffer.bytes.extend_from_slice(b":\n\nid: 7-1\nevent: join\ndata: {\"a\":\ndata: 1}\n\nid: 7-2\nda");
        assert_eq!(data(&buffer.take_event().expect("whole")), None);
        assert_eq!(data(&buffer.take_event().expect("whole")).as_deref(), Some("{\"a\":\n1}"));
        assert_eq!(buffer.take_event(), None);
        buffer.bytes.extend_from_slice(b"ta:2\n");
        assert_eq!(buffer.take_event(), None);
        buffer.bytes.extend_from_slice(b"\n");
        assert_eq!(data(&buffer.take_event().expect("whole")).as_deref(), Some("2"));
        assert!(buffer.bytes.is_empty());
    }
}
