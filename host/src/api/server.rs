//! The listener and its connections.

use std::{io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{ApiState, Exposure, access::Peer, routes, tls::Tls};
use crate::{
    error::{Error, Kind, Result},
    tasks::TaskSet,
};

/// Most connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
/// How long the head of a request may take to arrive.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long requests under way may take once the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after an `accept` that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the API's port; 0 lets the system choose.
///
/// # Errors
/// `PortInUse`, or `ConfigInvalid` when the port cannot be bound for another reason.
pub async fn bind(address: IpAddr, port: u16) -> Result<TcpListener> {
    TcpListener::bind((address, port)).await.map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::AddrInUse => Kind::PortInUse,
            _ => Kind::ConfigInvalid,
        };
        Error::new(kind, format!("cannot listen on {address}:{port}")).caused_by(error)
    })
}

/// Serves the API until `shutdown`, then lets requests under way finish for a while.
///
/// # Errors
/// `ConfigInvalid` when the listener is not on a loopback address and there is no TLS or no
/// federation.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    tls: Option<Arc<Tls>>,
    shutdown: CancellationToken,
) -> Result<()> {
    let address = listener.local_addr().map_err(|error| {
        Error::new(Kind::Internal, "the API's listener has no address").caused_by(error)
    })?;
    let exposure = Exposure { is_local: address.ip().is_loopback(), is_encrypted: tls.is_some() };
    if !exposure.is_local && (tls.is_none() || state.access.federation().is_none()) {
        let detail = format!(
            "off loopback the API needs TLS and a federation, so it does not listen on {address}"
        );
        return Err(Error::new(Kind::ConfigInvalid, detail));
    }
    info!(%address, tls = exposure.is_encrypted, "API is listening");
    let router = routes::router(ApiState { exposure, ..state });
    let mut connections = TaskSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.next(), if !connections.is_empty() => note(ended),
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let tls = tls.clone();
                    connections.spawn(
                        "api-connection",
                        accept(stream, tls, router.clone(), shutdown.clone()),
                    );
                }
                Err(error) => {
                    warn!(error = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let finish = async {
        while let Some(ended) = connections.next().await {
            note(ended);
        }
    };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        warn!(requests = connections.len(), "requests were cut off at the end");
    }
    connections.shutdown().await;
    Ok(())
}

/// Does the TLS handshake, if there is TLS, and serves the connection.
async fn accept(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    router: Router,
    shutdown: CancellationToken,
) -> Result<()> {
    let (Ok(client), Ok(server)) = (stream.peer_addr(), stream.local_addr()) else {
        return Ok(());
    };
    let router = router.layer(Extension(Peer { client: client.ip(), server: server.ip() }));
    let Some(tls) = tls else { return connection(stream, router, shutdown).await };
    match tokio::time::timeout(HEAD_TIME, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => connection(stream, router, shutdown).await,
        Ok(Err(error)) => {
            debug!(error = %error, "a TLS handshake failed");
            Ok(())
        }
        Err(_elapsed) => Ok(()),
    }
}

/// Serves one connection until its end, or to the end of its present request after `shutdown`.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    shutdown: CancellationToken,
) -> Result<()> {
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %error, "a connection broke off");
    }
    Ok(())
}

/// Logs a connection task that crashed.
fn note(ended: Result<()>) {
    if let Err(error) = ended {
        warn!(error = %error.full(), "a connection ended badly");
    }
}
