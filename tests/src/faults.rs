//! A TCP proxy on loopback that can be cut, stalled and delayed while connections are open.
//!
//! It runs on a thread of its own, so it goes on while a test blocks its runtime. A replica set whose
//! members advertise their proxies ([`crate::cluster::Options::proxied`]) is reached through them by
//! every client.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::ports::Port;

/// What the proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Passes them on.
    #[default]
    Open,
    /// Passes them on after a pause, in both directions.
    Delay(Duration),
    /// Keeps connections open and passes nothing on.
    Stall,
    /// Passes requests on and holds every reply back. Followed by [`Mode::Cut`], the work is done and
    /// the reply is lost.
    HoldReplies,
    /// Closes every connection and accepts no new one for longer than it takes to close it.
    Cut,
}

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// From the client to the server.
    Request,
    /// From the server to the client.
    Reply,
}

/// A proxy in front of one address. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    port: Port,
    /// What it does now.
    mode: watch::Sender<Mode>,
    /// Ends the thread when dropped.
    stop: Option<oneshot::Sender<()>>,
    /// The thread.
    thread: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy in front of `target`.
    ///
    /// # Errors
    /// When no port can be had or the thread cannot be started.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", port.number()))?;
        listener.set_nonblocking(true)?;
        let (mode, observed) = watch::channel(Mode::Open);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    // Either a value or a dropped sender means the end.
                    _ = stopped => {}
                    () = accept(listener, target, observed) => {}
                }
            });
        });
        let thread = thread.context("cannot start the proxy's thread")?;
        Ok(Self { port, mode, stop: Some(stop), thread: Some(thread) })
    }

    /// `127.0.0.1:<port>` to connect to.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Changes what the proxy does, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Accepts connections until dropped.
async fn accept(listener: std::net::TcpListener, target: SocketAddr, mode: watch::Receiver<Mode>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                connections.spawn(serve(client, target, mode.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until either side closes it or the proxy is cut.
async fn serve(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, mode.clone(), Direction::Request) => {}
        () = pump(from_server, to_client, mode, Direction::Reply) => {}
    }
}

/// Moves bytes one way as the mode says.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    direction: Direction,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = tokio::select! {
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => return,
            count = from.read(&mut buffer) => match count {
                Ok(count) if count > 0 => count,
                _ => return,
            },
        };
        loop {
            let now = *mode.borrow_and_update();
            match (now, direction) {
                (Mode::Open, _) | (Mode::HoldReplies, Direction::Request) => break,
                (Mode::Delay(pause), _) => {
                    tokio::time::sleep(pause).await;
                    break;
                }
                (Mode::Stall, _) | (Mode::HoldReplies, Direction::Reply) => {
                    if mode.changed().await.is_err() {
                        return;
                    }
                }
                (Mode::Cut, _) => return,
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo server and a proxy in front of it.
    async fn echo() -> (Proxy, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
            }
        });
        (Proxy::start(target).unwrap(), tasks)
    }

    /// Sends a byte and waits a moment for the echo.
    async fn answers(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok()
            && matches!(
                tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await,
                Ok(Ok(1))
            )
    }

    #[tokio::test]
    async fn an_open_connection_can_be_stalled_released_and_cut() {
        let (proxy, _server) = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut stream).await);

        proxy.set(Mode::Stall);
        assert!(!answers(&mut stream).await);
        proxy.set(Mode::Open);
        let mut held = [0];
        stream.read_exact(&mut held).await.unwrap();
        assert!(answers(&mut stream).await);

        proxy.set(Mode::Cut);
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(!answers(&mut next).await);

        proxy.set(Mode::Open);
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut next).await);
    }
}
