//! Connections to the API: so many at once, none of them idle for long, and all of them ended in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use p2p_api::Code;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at once. Each may hold a transfer, so this bounds those, too.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may take to send the next request; it may be silent for longer while one is worked on.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause after the system gave no connection, such as when this process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What was refused or given up.
#[derive(Debug, Default)]
pub(crate) struct ApiCounters {
    /// Connections beyond [`CONNECTIONS_MAX`].
    pub(crate) connections_refused: AtomicU64,
    /// Connections that sent no request for [`IDLE_TIME_MAX`].
    pub(crate) connections_idle: AtomicU64,
    /// Gets that found nobody who has the content, or nobody in time.
    pub(crate) gets_not_found: AtomicU64,
    /// Gets of which nothing more came for too long.
    pub(crate) gets_stalled: AtomicU64,
}

impl ApiCounters {
    /// Counts a get that had to be given up.
    pub(super) fn get_failed(&self, code: Code) {
        let counter = match code {
            Code::NotFound => &self.gets_not_found,
            Code::TimedOut => &self.gets_stalled,
            // Not for any bound.
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves until told to stop, and then until every request is answered.
pub(super) async fn serve(listener: UnixListener, router: Router, counters: Arc<ApiCounters>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection to the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            counters.connections_refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("refused a connection to the API: too many");
            continue;
        };
        let serve = serve_one(socket, router.clone(), counters.clone(), stop.clone());
        connections.spawn(async move {
            serve.await;
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_one(socket: UnixStream, router: Router, counters: Arc<ApiCounters>, stop: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIME_MAX);
    let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match ended {
        Err(error) if error.is_timeout() => {
            counters.connections_idle.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => tracing::trace!(%error, "a connection to the API broke off"),
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET /slow HTTP/1.1\r\nHost: node\r\n\r\n";

    /// A server whose only route takes an hour.
    fn slow() -> (tempfile::TempDir, std::path::PathBuf, Arc<ApiCounters>) {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let route = axum::routing::get(|| async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            "done"
        });
        let counters = Arc::<ApiCounters>::default();
        let router = Router::new().route("/slow", route);
        tokio::spawn(serve(listener, router, counters.clone(), CancellationToken::new()));
        (dir, socket, counters)
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_let_go_and_who_waits_for_an_answer_is_not() {
        let (_dir, socket, counters) = slow();
        let mut silent = UnixStream::connect(&socket).await.expect("it listens");
        let mut half = UnixStream::connect(&socket).await.expect("it listens");
        let mut waiting = UnixStream::connect(&socket).await.expect("it listens");
        half.write_all(&REQUEST[..20]).await.expect("it reads");
        waiting.write_all(REQUEST).await.expect("it reads");
        let started = tokio::time::Instant::now();
        for idle in [&mut silent, &mut half] {
            // Whatever it says, it ends.
            let ended = tokio::time::timeout(2 * IDLE_TIME_MAX, idle.read_to_end(&mut Vec::new())).await;
            let _ = ended.expect("it is let go");
        }
        assert!(started.elapsed() < 2 * IDLE_TIME_MAX, "{:?}", started.elapsed());
        let mut answer = [0; 15];
        waiting.read_exact(&mut answer).await.expect("it is worked on");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        assert!(started.elapsed() >= Duration::from_secs(3600));
        assert_eq!(counters.connections_idle.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn so_many_connections_are_served_and_no_more() {
        let (_dir, socket, counters) = slow();
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            all.push(UnixStream::connect(&socket).await.expect("it listens"));
        }
        let mut beyond = UnixStream::connect(&socket).await.expect("the system takes it");
        assert_eq!(beyond.read(&mut [0]).await.expect("closed in order"), 0);
        assert_eq!(counters.connections_refused.load(Ordering::Relaxed), 1);
        drop(all.pop());
        loop {
            let mut next = UnixStream::connect(&socket).await.expect("it listens");
            let closed = tokio::time::timeout(Duration::from_millis(100), next.read(&mut [0])).await;
            if closed.is_err() {
                return;
            }
        }
    }
}
