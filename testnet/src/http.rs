//! One kept connection to a node's socket, for what the typed client does not do: many small requests after another, a
//! range, `/metrics`, `/v1/faults`.
//!
//! As much HTTP/1.1 as a node's answers need: a status line, headers, and a body of a length said before. It costs next to
//! nothing, so that what is measured through it is the node.

use std::path::Path;

use p2p_api::{Code, Problem};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::Result;

/// Longest line of an answer's head, in bytes.
const LINE_LEN_MAX: u64 = 16 << 10;

/// Longest body that is taken into memory, in bytes.
const BODY_LEN_MAX: usize = 64 << 20;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body of a success; otherwise the problem that it carries.
    ///
    /// # Errors
    /// The node's problem.
    pub fn success(self) -> Result<Vec<u8>> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let unknown = || Problem::new(Code::Other, format!("the node answered with status {}", self.status));
        Err(serde_json::from_slice(&self.body).unwrap_or_else(|_| unknown()))
    }
}

/// A connection that is kept. After an error it is of no use any more.
#[derive(Debug)]
pub struct Connection {
    socket: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to a node.
    ///
    /// # Errors
    /// `unreachable` when nobody listens.
    pub async fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.map_err(|error| {
            Problem::new(Code::Unreachable, format!("no node answers at {}: {error}", socket.display()))
        })?;
        Ok(Self { socket: BufReader::new(stream) })
    }

    /// Sends a request with a whole body and reads the whole answer. `headers` are lines as they are sent, without end.
    ///
    /// # Errors
    /// `unreachable` when the connection breaks, `other` when the answer is more than this understands.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: node\r\ncontent-length: {}\r\n", body.len());
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        // One write where it fits: a socket wakes its reader for each.
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.socket.get_mut().write_all(&bytes).await.map_err(broken)?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer> {
        let line = self.line().await?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(|| strange(&line))?;
        let mut len = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| strange(&line))?;
            if name.eq_ignore_ascii_case("content-length") {
                len = Some(value.trim().parse().map_err(|_| strange(&line))?);
            }
        }
        let len =
            len.filter(|len| *len <= BODY_LEN_MAX).ok_or_else(|| strange("a body of no or of too great length"))?;
        let mut body = vec![0; len];
        self.socket.read_exact(&mut body).await.map_err(broken)?;
        Ok(Answer { status, body })
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        (&mut self.socket).take(LINE_LEN_MAX).read_until(b'\n', &mut line).await.map_err(broken)?;
        let line = line.strip_suffix(b"\r\n").ok_or_else(|| broken("the answer ends early"))?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

fn broken(error: impl std::fmt::Display) -> Problem {
    Problem::new(Code::Unreachable, format!("the connection to the node broke: {error}"))
}

fn strange(what: &str) -> Problem {
    Problem::new(Code::Other, format!("the node's answer cannot be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that answers so, whatever is asked; the requests that it got.
    async fn exchange(answer: &'static str, requests: usize) -> (Vec<Result<Answer>>, String) {
        let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
        let serve = tokio::spawn(async move {
            let mut got = String::new();
            for _ in 0..requests {
                let mut buffer = vec![0; 4096];
                let len = far.read(&mut buffer).await.expect("a request");
                got.push_str(&String::from_utf8_lossy(&buffer[..len]));
                far.write_all(answer.as_bytes()).await.expect("it reads");
            }
            got
        });
        let mut connection = Connection { socket: BufReader::new(near) };
        let mut answers = Vec::new();
        for n in 0..requests {
            answers.push(connection.request("PUT", &format!("/{n}"), &["a: b"], b"body").await);
        }
        (answers, serve.await.expect("no panic"))
    }

    #[tokio::test]
    async fn requests_follow_each_other_on_one_connection() {
        let (answers, got) = exchange("HTTP/1.1 201 Created\r\nContent-Length: 3\r\nx: y\r\n\r\nyes", 2).await;
        for answer in answers {
            assert_eq!(answer.expect("an answer"), Answer { status: 201, body: b"yes".to_vec() });
        }
        assert!(
            got.starts_with("PUT /0 HTTP/1.1\r\nhost: node\r\ncontent-length: 4\r\na: b\r\n\r\nbodyPUT /1 "),
            "{got}"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error_and_no_guess() {
        for answer in
            ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "nonsense\r\n"]
        {
            let (answers, _) = exchange(answer, 1).await;
            assert!(answers[0].is_err(), "{answer}: {answers:?}");
        }
    }

    #[test]
    fn a_refusal_is_the_problem_it_carries() {
        let problem = Problem::new(Code::Full, "no room");
        let body = serde_json::to_vec(&problem).expect("plain data");
        assert_eq!(Answer { status: 507, body }.success().expect_err("refused"), problem);
        assert_eq!(Answer { status: 500, body: Vec::new() }.success().expect_err("refused").code, Code::Other);
    }
}
