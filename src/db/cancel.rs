//! Asking the server to cancel what a connection is executing.
//!
//! The driver's own request closes its side at once. `PgBouncer` 1.18 takes that for a client in a state that cannot be, and ends, with
//! the connections of every other client. So the request is sent here, and its connection stays open until the other side closes it, as
//! libpq's does.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::hosts::{self, Dialled};
use super::{ConnInfo, ConnectError, tls};

/// How long one host may take to close the request's connection.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// How long the others may take when one has.
const OTHERS_MAX: Duration = Duration::from_millis(500);

/// Sends the request. Of several hosts nobody knows which one the connection goes to; the others do not know its key.
pub(super) async fn cancel(info: &ConnInfo, token: &CancelToken) -> Result<(), ConnectError> {
    let tls = tls::connector(&info.tls)?;
    let mut requests = JoinSet::new();
    for config in hosts::each(&info.config) {
        let (tls, token) = (tls.clone(), token.clone());
        requests.spawn(async move { send(&config, tls, &token).await });
    }
    let mut failed = "no answer".to_owned();
    let mut until = Instant::now() + CLOSE_MAX;
    let mut was_sent = false;
    loop {
        let sent = tokio::select! {
            sent = requests.join_next() => sent,
            () = tokio::time::sleep_until(until) => None,
        };
        match sent {
            Some(Ok(Ok(()))) => {
                (was_sent, until) = (true, until.min(Instant::now() + OTHERS_MAX));
            }
            Some(Ok(Err(error))) => failed = error,
            Some(Err(_)) => {}
            None if was_sent => return Ok(()),
            None => return Err(ConnectError::Cancel { target: info.target(), why: failed }),
        }
    }
}

async fn send(config: &Config, tls: MakeRustlsConnect, token: &CancelToken) -> Result<(), String> {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name,
        _ => "",
    };
    match hosts::dial(config).await.map_err(|error| error.to_string())? {
        Dialled::Tcp(stream) => over(stream, (host, tls), token).await,
        Dialled::Unix(stream) => over(stream, (host, tls), token).await,
    }
}

async fn over<S>(
    stream: S,
    (host, mut tls): (&str, MakeRustlsConnect),
    token: &CancelToken,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connect = MakeTlsConnect::<Patient<S>>::make_tls_connect(&mut tls, host);
    let connect = connect.map_err(|error| error.to_string())?;
    token.cancel_query_raw(Patient(stream), connect).await.map_err(|error| error.to_string())
}

/// A stream that is shut down by the other side alone.
struct Patient<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    /// Waits for the end of what the other side says.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut space = [0; 64];
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.0).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // A server may well reset what it has no more use for.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
