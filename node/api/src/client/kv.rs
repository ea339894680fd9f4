//! The replicated map: requests, over a connection each or all over one.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::IF_NONE_MATCH;
use hyper::{Method, Request};
use serde::de::DeserializeOwned;

use super::{Body, Client, Query, empty, escaped, millis, never, read_document};
use crate::Problem;
use crate::types::{CONTEXT_HEADER, KvEntry, KvEvent, KvKeys, KvWritten};

use super::Watch;

/// What a write is to take the place of. Unset it is what the node holds at that moment, if that is one value or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KvReplaces {
    /// What the node holds, if that is one value or none.
    #[default]
    Held,
    /// What the node holds, however many values that are.
    AllHeld,
    /// What was read with this token, and nothing else.
    Read(String),
    /// Nothing: it stands beside whatever there is. Not for a delete.
    Nothing,
    /// Nothing, and nothing may stand there. Not for a delete.
    Absent,
}

/// How a write is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvWriteOptions {
    /// What it takes the place of.
    pub replaces: KvReplaces,
    /// Nodes on whose disks it is to be before the call returns, this one included; 1 without.
    pub acks: Option<u32>,
    /// Longest wait for those.
    pub timeout: Option<Duration>,
}

type Prepared = hyper::http::Result<Request<Body>>;

fn get(key: &str) -> Prepared {
    Request::builder().uri(path_of(key)).body(empty())
}

fn write(key: &str, value: Option<Bytes>, options: &KvWriteOptions) -> Prepared {
    let mut query = Query::new(&path_of(key));
    query.add("acks", options.acks);
    query.add("timeout_ms", options.timeout.map(millis));
    query.add("force", (options.replaces == KvReplaces::AllHeld).then_some(true));
    query.add("sibling", (options.replaces == KvReplaces::Nothing).then_some(true));
    let method = if value.is_some() { Method::PUT } else { Method::DELETE };
    let mut request = Request::builder().method(method).uri(query.0);
    match &options.replaces {
        KvReplaces::Read(token) => request = request.header(CONTEXT_HEADER, token),
        KvReplaces::Absent => request = request.header(IF_NONE_MATCH, "*"),
        KvReplaces::Held | KvReplaces::AllHeld | KvReplaces::Nothing => {}
    }
    match value {
        Some(value) => request.body(Full::new(value).map_err(never).boxed_unsync()),
        None => request.body(empty()),
    }
}

impl Client {
    /// What stands at a key.
    ///
    /// # Errors
    /// The node's problem, `not_found` where nothing does.
    pub async fn kv_get(&self, key: &str) -> Result<KvEntry, Problem> {
        self.call(get(key)).await
    }

    /// Writes a value.
    ///
    /// # Errors
    /// The node's problem; [`KvWritten`] with `problem` set is not an error here.
    pub async fn kv_put(&self, key: &str, value: Bytes, options: &KvWriteOptions) -> Result<KvWritten, Problem> {
        self.call(write(key, Some(value), options)).await
    }

    /// Deletes what stands at a key; that nothing does is no failure.
    ///
    /// # Errors
    /// The node's problem; [`KvWritten`] with `problem` set is not an error here.
    pub async fn kv_del(&self, key: &str, options: &KvWriteOptions) -> Result<KvWritten, Problem> {
        self.call(write(key, None, options)).await
    }

    /// Keys that begin so, after one of them, at most `limit`.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: Option<u32>) -> Result<KvKeys, Problem> {
        let mut query = Query::new("/v1/keys");
        query.add("prefix", (!prefix.is_empty()).then(|| escaped(prefix)));
        query.add("after", after.map(escaped));
        query.add("limit", limit);
        self.call(Request::builder().uri(query.0).body(empty())).await
    }

    /// What happens to keys that begin so, from now on or after an event.
    ///
    /// # Errors
    /// The node's problem, `usage` for an id that is none.
    pub async fn watch_kv(&self, prefix: &str, since: Option<&str>) -> Result<Watch<KvEvent>, Problem> {
        let mut query = Query::new("/v1/keys/watch");
        query.add("prefix", (!prefix.is_empty()).then(|| escaped(prefix)));
        let request = Request::builder().uri(query.0);
        let request = match since {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        Ok(Watch::new(self.send(request.body(empty())).await?.into_body()))
    }

    /// A client for many requests, one after the other, over one connection.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn keep(&self) -> Result<Kept, Problem> {
        Ok(Kept { sender: self.connect().await?, client: self.clone() })
    }
}

/// Many requests about keys over one connection, each after the answer to the one before it.
pub struct Kept {
    sender: SendRequest<Body>,
    client: Client,
}

impl Kept {
    /// See [`Client::kv_get`].
    ///
    /// # Errors
    /// As there.
    pub async fn kv_get(&mut self, key: &str) -> Result<KvEntry, Problem> {
        self.call(get(key)).await
    }

    /// See [`Client::kv_put`].
    ///
    /// # Errors
    /// As there.
    pub async fn kv_put(&mut self, key: &str, value: Bytes, options: &KvWriteOptions) -> Result<KvWritten, Problem> {
        self.call(write(key, Some(value), options)).await
    }

    async fn call<T: DeserializeOwned>(&mut self, request: Prepared) -> Result<T, Problem> {
        let broken = |error: hyper::Error| self.client.broken(&error);
        self.sender.ready().await.map_err(broken)?;
        read_document(self.client.send_over(&mut self.sender, request).await?).await
    }
}

fn path_of(key: &str) -> String {
    format!("/v1/kv/{}", escaped(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_one_part_of_the_path() {
        assert_eq!(path_of("color"), "/v1/kv/color");
        assert_eq!(path_of("a/b?c=\u{e4}&d e%"), "/v1/kv/a%2Fb%3Fc%3D%C3%A4%26d%20e%25");
        assert_eq!((path_of(".."), path_of("a.b")), ("/v1/kv/%2E%2E".into(), "/v1/kv/a.b".into()));
    }
}
