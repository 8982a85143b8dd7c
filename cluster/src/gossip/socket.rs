//! The gossip library's transport: one UDP socket behind a [`Channel`].
//!
//! Nothing that comes in ends the loop that reads here, and nothing that cannot be sent does:
//! it is counted and dropped, as datagrams may be anyway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::channel::{Channel, Received};
use super::counts::{Counts, Reason};
use super::fragments::DATAGRAM_BYTES_MAX;
use crate::secret::Secrets;

/// A pause after an error in receiving, lest a broken interface takes a whole core.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// How often to warn of datagrams that were made with another secret.
const WARN_PERIOD: Duration = Duration::from_secs(60);

/// Hands its socket to the gossip library, once.
pub(super) struct Encrypted(Mutex<Option<EncryptedSocket>>);

/// What the gossip library sends and receives through.
pub(super) struct EncryptedSocket {
    pub(super) socket: UdpSocket,
    pub(super) channel: Channel,
    pub(super) secrets: watch::Receiver<Secrets>,
    pub(super) counts: Arc<Counts>,
    pub(super) began: Instant,
    /// One byte longer than a datagram may be, to see that one is.
    pub(super) buffer: Box<[u8; DATAGRAM_BYTES_MAX + 1]>,
    pub(super) warned: Option<Instant>,
}

impl Encrypted {
    pub(super) fn new(socket: EncryptedSocket) -> Self {
        Self(Mutex::new(Some(socket)))
    }
}

#[async_trait]
impl Transport for Encrypted {
    async fn open(&self, _already_bound: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self
            .0
            .lock()
            .take()
            .context("the socket was opened before")?;
        Ok(Box::new(socket))
    }
}

#[async_trait]
impl Socket for EncryptedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.follow_secrets();
        let now = self.began.elapsed();
        let datagrams = self.channel.seal(&message.serialize_to_vec(), now);
        if datagrams.is_empty() {
            self.counts.drop_one(Reason::Oversized);
        }
        for datagram in datagrams {
            if let Err(error) = self.socket.send_to(&datagram, to).await {
                debug!(%to, %error, "gossip was not sent");
                self.counts.drop_one(Reason::Network);
                break;
            }
            self.counts.send(datagram.len());
        }
        Ok(())
    }

    /// May be dropped at any await: what was received by then is either returned or counted.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (bytes, from) = match self.socket.recv_from(&mut self.buffer[..]).await {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "gossip was not received");
                    self.counts.drop_one(Reason::Network);
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            self.follow_secrets();
            let now = self.began.elapsed();
            let received = self.channel.receive(&self.buffer[..bytes], now);
            if let Some(message) = self.take(received, from) {
                return Ok((from, message));
            }
        }
    }
}

impl EncryptedSocket {
    fn follow_secrets(&mut self) {
        if self.secrets.has_changed().unwrap_or(false) {
            let secrets = self.secrets.borrow_and_update().clone();
            self.channel.rotate(secrets);
        }
    }

    fn take(&mut self, received: Received, from: SocketAddr) -> Option<ChitchatMessage> {
        if let Some(reason) = received.dropped {
            self.drop_one(reason, from);
        }
        if received.under_accepted {
            self.counts.open_under_accepted();
        }
        if let Some(reply) = received.reply {
            // A greeting that finds the buffer full is lost like any datagram.
            match self.socket.try_send_to(&reply, from) {
                Ok(bytes) => self.counts.send(bytes),
                Err(_lost) => self.counts.drop_one(Reason::Network),
            }
        }
        let message = received.message?;
        match ChitchatMessage::deserialize(&mut &message[..]) {
            Ok(message) => {
                self.counts.take_in();
                Some(message)
            }
            Err(error) => {
                debug!(%from, %error, "gossip was not readable");
                self.counts.drop_one(Reason::Unreadable);
                None
            }
        }
    }

    fn drop_one(&mut self, reason: Reason, from: SocketAddr) {
        self.counts.drop_one(reason);
        let quiet = self.warned.is_some_and(|at| at.elapsed() < WARN_PERIOD);
        if reason == Reason::Unauthentic && !quiet {
            self.warned = Some(Instant::now());
            warn!(%from, "a datagram was not made with the cluster's secret");
        }
    }
}
