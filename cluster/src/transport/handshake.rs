//! How two nodes meet: versions, proof of the cluster's key, and who they are, before any
//! byte reaches ractor_cluster.
//!
//! ```text
//! dialler   "regrow" versions, Hello{boot, gateway, epoch, nonce}
//! accepter  Challenge{protocol, boot, gateway, epoch, nonce} and its proof, or Refused
//! dialler   its proof
//! accepter  Welcome, or Refused
//! ```
//!
//! A proof is a keyed BLAKE3 over its role and everything said before it, so neither side can
//! be made to answer for the other (which ractor_cluster's challenge can), and the accepter
//! proves itself first. With TLS the name must also be the certificate's. Without TLS the
//! beginning of a session is authenticated and what follows is not encrypted: that is for
//! networks that nobody else can touch.
//!
//! Every message is at most [`MESSAGE_BYTES_MAX`] bytes; the caller bounds the time of all.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::fence::{Boot, Refusal};
use crate::member::NodeName;
use crate::wire::{NoCommonVersion, PROTOCOL, Versions, agree, codec};

/// The largest message of the handshake, in bytes.
pub(super) const MESSAGE_BYTES_MAX: u32 = 4 * 1024;

const MAGIC: [u8; 6] = *b"regrow";

/// Who this node is to its peers.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) boot: Boot,
    /// The gateway's id among the actors of its process.
    pub(super) gateway: u64,
    /// The cluster's keys; never sent. The first one is used, all are accepted.
    pub(super) keys: Vec<[u8; 32]>,
    /// What this build speaks.
    pub(super) versions: Versions,
    pub(super) takes: Takes,
}

/// What a node takes and sends at most: both keep to the smaller of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Takes {
    pub(super) window_messages: u64,
    pub(super) window_bytes: u64,
    pub(super) payload_bytes_max: u64,
}

/// A peer that has proved that it knows the key.
#[derive(Clone, Debug)]
pub(super) struct Greeted {
    pub(super) boot: Boot,
    pub(super) gateway: u64,
    /// The number by which the peer knows the session.
    pub(super) their_epoch: u64,
    /// The number by which this node knows it.
    pub(super) our_epoch: u64,
    pub(super) protocol: u8,
    pub(super) takes: Takes,
}

/// Why a handshake failed. Nothing has changed on either side.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection broke or was closed.
    #[error("the connection broke during the handshake")]
    Io(#[from] std::io::Error),
    /// The certificates do not fit, or the other end is without TLS.
    #[error("no TLS with the other end; is its certificate of this cluster's authority?")]
    Tls(#[source] std::io::Error),
    /// The other end is something else, or speaks TLS where this end does not.
    #[error("the other end does not speak this protocol; is one of the two without TLS?")]
    Stranger,
    /// The other end's proof is wrong.
    #[error("the other end has another cluster key")]
    WrongKey,
    /// The certificate is for another name.
    #[error("the certificate of {0} is not for that name")]
    WrongCertificate(NodeName),
    /// The other end refused.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// This end refused.
    #[error("refused here: {0}")]
    RefusedHere(#[from] Refusal),
}

/// What the other end said when it refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// No protocol version in common.
    #[error(
        "no common protocol: it speaks {oldest}..={newest}; upgrade the older of the two, \
             one version at a time"
    )]
    Version {
        /// The oldest that the other end speaks.
        oldest: u8,
        /// The newest.
        newest: u8,
    },
    /// The dialler's proof is wrong.
    #[error("it has another cluster key")]
    WrongKey,
    /// The dialler's certificate is for another name.
    #[error("the certificate is not for the name that was given")]
    WrongCertificate,
    /// Who is dialling is not let in.
    #[error("{0}")]
    Fence(Refusal),
}

#[derive(Serialize, Deserialize)]
struct Hello {
    boot: Boot,
    gateway: u64,
    epoch: u64,
    takes: Takes,
    nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Challenge {
    protocol: u8,
    boot: Boot,
    gateway: u64,
    epoch: u64,
    takes: Takes,
    nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
enum Challenged {
    Challenge { challenge: Vec<u8>, proof: [u8; 32] },
    Refused(Refused),
}

#[derive(Serialize, Deserialize)]
enum Answered {
    Welcome,
    Refused(Refused),
}

#[derive(Clone, Copy)]
enum Role {
    Dialler,
    Accepter,
}

/// What only a holder of the key can say about a conversation.
fn proof(key: &[u8; 32], role: Role, hello: &[u8], challenge: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(match role {
        Role::Dialler => b"dialler ",
        Role::Accepter => b"accepter",
    });
    for part in [hello, challenge] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

/// Meets whoever accepts. `is_certified` says whether a name is the certificate's.
pub(super) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: &Identity,
    expected: Option<&NodeName>,
    is_certified: impl Fn(&NodeName) -> bool,
) -> Result<Greeted, HandshakeError> {
    let our_epoch = rand::random();
    let hello = Hello {
        boot: me.boot.clone(),
        gateway: me.gateway,
        epoch: our_epoch,
        takes: me.takes,
        nonce: rand::random(),
    };
    let hello = write_versioned(stream, me.versions, &hello).await?;
    let (their_challenge, their_proof) = match read_message(stream).await? {
        Challenged::Challenge { challenge, proof } => (challenge, proof),
        Challenged::Refused(refused) => return Err(refused.into()),
    };
    let proves = |key: &&[u8; 32]| {
        // Compared in constant time.
        proof(key, Role::Accepter, &hello, &their_challenge) == their_proof
    };
    let key = me
        .keys
        .iter()
        .find(proves)
        .ok_or(HandshakeError::WrongKey)?;
    let challenge: Challenge = decoded(&their_challenge)?;
    let name = &challenge.boot.member.name;
    if !is_certified(name) {
        return Err(HandshakeError::WrongCertificate(name.clone()));
    }
    if let Some(expected) = expected.filter(|expected| *expected != name) {
        let (expected, found) = (expected.clone(), name.clone());
        return Err(Refusal::SomeoneElse { expected, found }.into());
    }
    let spoken = Versions {
        oldest: challenge.protocol,
        newest: challenge.protocol,
    };
    agree(me.versions, spoken).map_err(|_| HandshakeError::Stranger)?;
    let ours = proof(key, Role::Dialler, &hello, &their_challenge);
    write_message(stream, ours.as_bytes()).await?;
    match read_message(stream).await? {
        Answered::Welcome => Ok(Greeted {
            boot: challenge.boot,
            gateway: challenge.gateway,
            their_epoch: challenge.epoch,
            our_epoch,
            protocol: challenge.protocol,
            takes: challenge.takes,
        }),
        Answered::Refused(refused) => Err(refused.into()),
    }
}

/// Meets whoever dials, up to the decision whether it is let in ([`welcome`], [`refuse`]).
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    me: &Identity,
    is_certified: impl Fn(&NodeName) -> bool,
) -> Result<Greeted, HandshakeError> {
    let (theirs, hello) = read_versioned(stream).await?;
    let protocol = match agree(me.versions, theirs) {
        Ok(protocol) => protocol,
        Err(NoCommonVersion { ours, .. }) => {
            let (oldest, newest) = (ours.oldest, ours.newest);
            let refused = Refused::Version { oldest, newest };
            write_message(stream, &Challenged::Refused(refused.clone())).await?;
            return Err(refused.into());
        }
    };
    let dialler: Hello = decoded(&hello)?;
    let our_epoch = rand::random();
    let challenge = Challenge {
        protocol,
        boot: me.boot.clone(),
        gateway: me.gateway,
        epoch: our_epoch,
        takes: me.takes,
        nonce: rand::random(),
    };
    let challenge = encoded(&challenge)?;
    let key = me.keys.first().ok_or(HandshakeError::WrongKey)?;
    let ours = proof(key, Role::Accepter, &hello, &challenge);
    let challenged = Challenged::Challenge {
        challenge: challenge.clone(),
        proof: *ours.as_bytes(),
    };
    write_message(stream, &challenged).await?;
    let theirs: [u8; 32] = read_message(stream).await?;
    if proof(key, Role::Dialler, &hello, &challenge) != theirs {
        refuse(stream, Refused::WrongKey).await?;
        return Err(HandshakeError::WrongKey);
    }
    let name = &dialler.boot.member.name;
    if !is_certified(name) {
        refuse(stream, Refused::WrongCertificate).await?;
        return Err(HandshakeError::WrongCertificate(name.clone()));
    }
    Ok(Greeted {
        boot: dialler.boot,
        gateway: dialler.gateway,
        their_epoch: dialler.epoch,
        our_epoch,
        protocol,
        takes: dialler.takes,
    })
}

/// Lets the dialler in.
pub(super) async fn welcome<S: AsyncWrite + Unpin>(stream: &mut S) -> Result<(), HandshakeError> {
    write_message(stream, &Answered::Welcome).await
}

/// Tells the dialler why not, and closes.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(
    stream: &mut S,
    refused: Refused,
) -> Result<(), HandshakeError> {
    write_message(stream, &Answered::Refused(refused)).await?;
    Ok(stream.shutdown().await?)
}

fn encoded<T: Serialize>(message: &T) -> Result<Vec<u8>, HandshakeError> {
    codec::encode(message).map_err(|_| HandshakeError::Stranger)
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HandshakeError> {
    codec::decode(bytes).map_err(|_| HandshakeError::Stranger)
}

async fn write_versioned<S: AsyncWrite + Unpin>(
    stream: &mut S,
    versions: Versions,
    hello: &Hello,
) -> Result<Vec<u8>, HandshakeError> {
    // In this form for ever: builds that have no version in common must read it.
    stream.write_all(&MAGIC).await?;
    stream
        .write_all(&[versions.oldest, versions.newest])
        .await?;
    let bytes = encoded(hello)?;
    write_bytes(stream, &bytes).await?;
    Ok(bytes)
}

async fn read_versioned<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<(Versions, Vec<u8>), HandshakeError> {
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC {
        return Err(HandshakeError::Stranger);
    }
    let oldest = stream.read_u8().await?;
    let newest = stream.read_u8().await?;
    Ok((Versions { oldest, newest }, read_bytes(stream).await?))
}

async fn write_message<S: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut S,
    message: &T,
) -> Result<(), HandshakeError> {
    write_bytes(stream, &encoded(message)?).await
}

async fn read_message<S: AsyncRead + Unpin, T: DeserializeOwned>(
    stream: &mut S,
) -> Result<T, HandshakeError> {
    decoded(&read_bytes(stream).await?)
}

async fn write_bytes<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> Result<(), HandshakeError> {
    let mut message = (bytes.len() as u32).to_be_bytes().to_vec();
    message.extend_from_slice(bytes);
    stream.write_all(&message).await?;
    Ok(stream.flush().await?)
}

async fn read_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, HandshakeError> {
    let length = stream.read_u32().await?;
    if MESSAGE_BYTES_MAX < length {
        return Err(HandshakeError::Stranger);
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// An identity of this build.
pub(super) fn identity(boot: Boot, gateway: u64, keys: Vec<[u8; 32]>, takes: Takes) -> Identity {
    Identity {
        takes,
        boot,
        gateway,
        keys,
        versions: Versions::of(PROTOCOL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::{Incarnation, Member};

    fn node(name: &str, key: u8, newest: u8) -> Identity {
        let member = Member {
            name: name.into(),
            incarnation: Incarnation(3),
        };
        let boot = Boot { member, number: 7 };
        let takes = Takes {
            window_messages: u64::from(key),
            window_bytes: 2,
            payload_bytes_max: 3,
        };
        Identity {
            versions: Versions::of(newest),
            ..identity(boot, 9, vec![[key; 32]], takes)
        }
    }

    async fn meet(
        dialler: Identity,
        accepter: Identity,
        certified: &str,
    ) -> (
        Result<Greeted, HandshakeError>,
        Result<Greeted, HandshakeError>,
    ) {
        let (mut near, mut far) = tokio::io::duplex(16 * 1024);
        let accepting = async {
            let greeted = accept(&mut far, &accepter, |name| name.as_str() == certified).await?;
            welcome(&mut far).await?;
            Ok(greeted)
        };
        let dialling = async {
            let outcome = dial(&mut near, &dialler, None, |_| true).await;
            // Whoever fails hangs up.
            drop(near);
            outcome
        };
        tokio::join!(dialling, accepting)
    }

    #[tokio::test]
    async fn both_learn_who_the_other_is_and_each_others_number_for_the_session() {
        let (dialled, accepted) = meet(node("a", 1, 4), node("b", 1, 3), "a").await;
        let (dialled, accepted) = (dialled.expect("met"), accepted.expect("met"));
        assert_eq!(dialled.boot.member.to_string(), "b#3");
        assert_eq!(accepted.boot.member.to_string(), "a#3");
        assert_eq!(dialled.our_epoch, accepted.their_epoch);
        assert_eq!(dialled.their_epoch, accepted.our_epoch);
        assert_eq!((dialled.protocol, accepted.protocol), (3, 3));
        assert_eq!(dialled.takes.payload_bytes_max, 3);
    }

    #[tokio::test]
    async fn whoever_does_not_belong_is_told_why() {
        let (dialled, _) = meet(node("a", 1, 1), node("b", 2, 1), "a").await;
        let error = dialled.expect_err("another key");
        assert!(matches!(error, HandshakeError::WrongKey), "{error}");
        let (dialled, _) = meet(node("a", 1, 5), node("b", 1, 3), "a").await;
        let error = dialled.expect_err("too new");
        assert!(error.to_string().contains("it speaks 2..=3"), "{error}");
        let (dialled, _) = meet(node("a", 1, 1), node("b", 1, 1), "c").await;
        let error = dialled.expect_err("another's certificate");
        assert!(
            matches!(error, HandshakeError::Refused(Refused::WrongCertificate)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_key_is_changed_in_steps_without_a_node_left_out() {
        let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
        let at = |step: usize| Identity {
            keys: steps[step].iter().map(|key| [*key; 32]).collect(),
            ..node("a", 1, 1)
        };
        for (one, other, is_met) in [
            (0, 1, true),
            (1, 0, true),
            (1, 2, true),
            (2, 1, true),
            (2, 3, true),
            (3, 2, true),
            (0, 2, false),
            (0, 3, false),
        ] {
            let (dialled, accepted) = meet(at(one), at(other), "a").await;
            assert_eq!(dialled.is_ok(), is_met, "steps {one} and {other}");
            assert_eq!(accepted.is_ok(), is_met, "steps {one} and {other}");
        }
    }

    #[tokio::test]
    async fn an_accepter_without_the_key_learns_no_proof() {
        let (near, mut far) = tokio::io::duplex(16 * 1024);
        let me = node("a", 1, 1);
        let reflecting = async {
            let (_, hello) = read_versioned(&mut far).await?;
            // What the dialler would say, had it been asked first.
            let challenged = Challenged::Challenge {
                challenge: hello,
                proof: [0; 32],
            };
            write_message(&mut far, &challenged).await?;
            let heard: Result<[u8; 32], _> = read_message(&mut far).await;
            drop(far);
            Ok::<bool, HandshakeError>(heard.is_ok())
        };
        let dialling = async {
            let mut near_end = near;
            let outcome = dial(&mut near_end, &me, None, |_| true).await;
            drop(near_end);
            outcome
        };
        let (dialled, heard) = tokio::join!(dialling, reflecting);
        assert!(matches!(dialled, Err(HandshakeError::WrongKey)));
        assert!(!heard.expect("spoken"), "nothing to relay");
    }
}
