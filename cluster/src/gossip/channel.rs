//! Whose datagrams are taken in (pure).
//!
//! A datagram counts if it was made with the secret, by a boot that is there now, was not
//! received before, and was not held back. "There now" is proven once for each pair of boots:
//! whoever receives from a boot it does not know drops what came and answers with a [`Hello`]
//! that asks for a cookie to be given back. So a recording of an earlier life, or one played to
//! a node that has restarted and forgot what it received, is worth nothing, and no clocks are
//! compared. From the proof on a window of counters refuses repetitions, and [`Freshness`]
//! what was held back.
//!
//! *Bound* by this are the sender's boot, the order of its datagrams and, in a `Hello`, the boot
//! it is for. *Not bound* are addresses, since translators change them: an answer goes where the
//! datagram came from. Nor is a message bound to one receiver: a copy may be led to another node
//! that knows the sender and has not received it; it is then gossip that node might have been
//! sent anyway. Nodes are not told apart by keys: whoever has the secret may speak for any node.

use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::time::Duration;

use ring::hmac;

use super::counts::Reason;
use super::datagram::{self, Body, Boot, Cipher, Cookie, Header, Hello, PART_BYTES_MAX};
use super::fragments::{Added, Assembly, DATAGRAM_BYTES_MAX, PARTS_MAX, Part};
use super::freshness::Freshness;
use super::replay::{Refusal, Window};
use crate::secret::{ClusterSecret, Secrets};

/// How long a cookie is good: the present period and the one before.
const COOKIE_PERIOD: Duration = Duration::from_secs(5);
/// Answers to boots that are not known, per second. More only come from a flood of recordings.
const HELLOS_PER_SECOND: u32 = 200;

/// Bounds of a [`Channel`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Boots that are remembered; the one heard longest ago makes room.
    pub(super) senders_max: usize,
    /// How much later than its sender's quickest of late a datagram may come.
    pub(super) delay_max: Duration,
}

/// What a received datagram did.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// A message is whole.
    pub(super) message: Option<Vec<u8>>,
    /// To be sent back where the datagram came from.
    pub(super) reply: Option<Vec<u8>>,
    /// It was made with the accepted secret, not the present one.
    pub(super) under_accepted: bool,
    /// Something was dropped.
    pub(super) dropped: Option<Reason>,
}

impl Received {
    fn dropped(reason: Reason) -> Self {
        Self {
            dropped: Some(reason),
            ..Self::default()
        }
    }
}

/// One end of the encrypted gossip: one boot of one node. Times count from its beginning.
pub(super) struct Channel {
    secrets: Secrets,
    boot: Boot,
    cipher: Cipher,
    next_counter: u64,
    cookies: hmac::Key,
    /// Goes into cookies: when a sender is forgotten, those given out are void, lest an old
    /// `Hello` brings it back.
    forgotten: u64,
    senders: HashMap<Boot, Sender>,
    bounds: Bounds,
    hellos: (u64, u32),
    scratch: Vec<u8>,
}

/// An authentic datagram.
struct Opened {
    sent: Duration,
    body: Range<usize>,
    under_accepted: bool,
}

/// What is known of a boot that has proven itself.
struct Sender {
    /// That of the present secret, then that of the accepted one.
    ciphers: Vec<Cipher>,
    window: Window,
    freshness: Freshness,
    assembly: Assembly,
    heard: Duration,
}

impl Channel {
    /// A channel of this `boot`, which was never used before; `seed` is as secret and as random.
    pub(super) fn new(secrets: Secrets, boot: Boot, seed: &[u8; 32], bounds: Bounds) -> Self {
        Self {
            cipher: Cipher::new(&secrets.present, boot),
            secrets,
            boot,
            next_counter: 0,
            cookies: hmac::Key::new(hmac::HMAC_SHA256, seed),
            forgotten: 0,
            senders: HashMap::new(),
            bounds,
            hellos: (0, 0),
            scratch: Vec::with_capacity(DATAGRAM_BYTES_MAX),
        }
    }

    /// Changes the secrets. What is known of senders stays.
    pub(super) fn rotate(&mut self, secrets: Secrets) {
        self.secrets = secrets;
        self.cipher = Cipher::new(&self.secrets.present, self.boot);
        for (boot, sender) in &mut self.senders {
            sender.ciphers = ciphers(&self.secrets, *boot);
        }
    }

    /// The datagrams that carry `message`; none if it is larger than a message may be.
    pub(super) fn seal(&mut self, message: &[u8], now: Duration) -> Vec<Vec<u8>> {
        // An empty message has one part, too.
        let count = message.len().div_ceil(PART_BYTES_MAX).max(1);
        let Some(count) = u8::try_from(count).ok().filter(|count| *count <= PARTS_MAX) else {
            return Vec::new();
        };
        (0..count)
            .map(|index| {
                let from = usize::from(index) * PART_BYTES_MAX;
                let to = message.len().min(from + PART_BYTES_MAX);
                let part = Part { index, count };
                self.seal_one(Body::Part(part, &message[from..to]), now)
            })
            .collect()
    }

    fn seal_one(&mut self, body: Body<'_>, now: Duration) -> Vec<u8> {
        let header = Header {
            boot: self.boot,
            counter: self.next_counter,
        };
        self.next_counter += 1;
        self.cipher.seal(header, now, body)
    }

    /// Takes a datagram in, or drops it and says why.
    pub(super) fn receive(&mut self, datagram: &[u8], now: Duration) -> Received {
        if DATAGRAM_BYTES_MAX < datagram.len() {
            return Received::dropped(Reason::Oversized);
        }
        let Some(header) = Header::read(datagram) else {
            return Received::dropped(Reason::Malformed);
        };
        if header.boot == self.boot {
            return Received::dropped(Reason::Own);
        }
        let mut scratch = mem::take(&mut self.scratch);
        let received = match self.open(header, datagram, &mut scratch) {
            Some(opened) => {
                let received = match datagram::read(&scratch[opened.body]) {
                    Some(body) => self.judge(header, opened.sent, body, now),
                    None => Received::dropped(Reason::Unreadable),
                };
                Received {
                    under_accepted: opened.under_accepted,
                    ..received
                }
            }
            None => Received::dropped(Reason::Unauthentic),
        };
        self.scratch = scratch;
        received
    }

    fn open(&self, header: Header, datagram: &[u8], scratch: &mut Vec<u8>) -> Option<Opened> {
        let derived;
        let candidates = match self.senders.get(&header.boot) {
            Some(sender) => &sender.ciphers,
            None => {
                derived = ciphers(&self.secrets, header.boot);
                &derived
            }
        };
        candidates.iter().enumerate().find_map(|(number, cipher)| {
            let (sent, body) = cipher.open(header, datagram, scratch)?;
            Some(Opened {
                sent,
                body,
                under_accepted: 0 < number,
            })
        })
    }

    fn judge(&mut self, header: Header, sent: Duration, body: Body<'_>, now: Duration) -> Received {
        match body {
            Body::Hello(hello) => self.greeted(header, sent, hello, now),
            Body::Part(part, bytes) => self.add(header, sent, (part, bytes), now),
        }
    }

    fn add(
        &mut self,
        header: Header,
        sent: Duration,
        (part, bytes): (Part, &[u8]),
        now: Duration,
    ) -> Received {
        let Some(sender) = self.senders.get_mut(&header.boot) else {
            return Received {
                reply: self.ask(header.boot, now),
                ..Received::dropped(Reason::Unproven)
            };
        };
        if let Err(refusal) = sender.window.accept(header.counter) {
            return Received::dropped(refusal.into());
        }
        if self.bounds.delay_max < sender.freshness.delay(sent, now, self.bounds.delay_max) {
            // Its clock may have stood still, as that of a suspended machine does; it may
            // prove itself anew.
            return Received {
                reply: self.ask(header.boot, now),
                ..Received::dropped(Reason::Stale)
            };
        }
        sender.heard = now;
        let (added, gave_up) = sender.assembly.add(header.counter, part, bytes);
        match added {
            Added::Waiting => Received {
                dropped: gave_up.then_some(Reason::Unfitting),
                ..Received::default()
            },
            Added::Whole(message) => Received {
                message: Some(message),
                ..Received::default()
            },
            Added::Unfitting => Received::dropped(Reason::Unfitting),
        }
    }

    fn greeted(&mut self, header: Header, sent: Duration, hello: Hello, now: Duration) -> Received {
        if hello.to != self.boot {
            // For a boot of ours that is no more, or led astray.
            return Received::dropped(Reason::Unproven);
        }
        if let Some(sender) = self.senders.get_mut(&header.boot)
            && let Err(refusal) = sender.window.accept(header.counter)
        {
            return Received::dropped(refusal.into());
        }
        if hello
            .gives
            .is_some_and(|given| self.is_good(given, header.boot, now))
        {
            self.admit(header, sent, now);
        }
        let reply = hello.asks.and_then(|asked| {
            let known = self.senders.contains_key(&header.boot);
            self.greet(header.boot, Some(asked), !known, now)
        });
        Received {
            reply,
            ..Received::default()
        }
    }

    /// Remembers a boot that gave a good cookie back.
    fn admit(&mut self, header: Header, sent: Duration, now: Duration) {
        if let Some(sender) = self.senders.get_mut(&header.boot) {
            sender.freshness = Freshness::new(sent, now);
            sender.heard = now;
            return;
        }
        if self.bounds.senders_max <= self.senders.len() {
            let oldest = self.senders.iter().min_by_key(|(_, sender)| sender.heard);
            if let Some(oldest) = oldest.map(|(boot, _)| *boot) {
                self.senders.remove(&oldest);
                self.forgotten += 1;
            }
        }
        let sender = Sender {
            ciphers: ciphers(&self.secrets, header.boot),
            window: Window::opened_at(header.counter),
            freshness: Freshness::new(sent, now),
            assembly: Assembly::default(),
            heard: now,
        };
        self.senders.insert(header.boot, sender);
    }

    fn ask(&mut self, to: Boot, now: Duration) -> Option<Vec<u8>> {
        self.greet(to, None, true, now)
    }

    /// A `Hello`, unless too many were sent within this second.
    fn greet(
        &mut self,
        to: Boot,
        gives: Option<Cookie>,
        asks: bool,
        now: Duration,
    ) -> Option<Vec<u8>> {
        let second = now.as_secs();
        if self.hellos.0 != second {
            self.hellos = (second, 0);
        }
        if HELLOS_PER_SECOND <= self.hellos.1 {
            return None;
        }
        self.hellos.1 += 1;
        let asks = asks.then(|| self.cookie(to, period(now)));
        Some(self.seal_one(Body::Hello(Hello { to, asks, gives }), now))
    }

    /// The cookie for `boot` in a period; not stored, since only we can make it.
    fn cookie(&self, boot: Boot, period: u64) -> Cookie {
        let mut context = hmac::Context::with_key(&self.cookies);
        context.update(&boot.0);
        context.update(&period.to_be_bytes());
        context.update(&self.forgotten.to_be_bytes());
        let mut cookie = Cookie::default();
        cookie.copy_from_slice(&context.sign().as_ref()[..16]);
        cookie
    }

    fn is_good(&self, given: Cookie, boot: Boot, now: Duration) -> bool {
        let present = period(now);
        // It came inside an authentic datagram, so how long the comparison takes tells nobody.
        [Some(present), present.checked_sub(1)]
            .into_iter()
            .flatten()
            .any(|period| self.cookie(boot, period) == given)
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Seen => Self::Replayed,
            Refusal::Behind => Self::Behind,
        }
    }
}

fn period(now: Duration) -> u64 {
    now.as_secs() / COOKIE_PERIOD.as_secs()
}

fn ciphers(secrets: &Secrets, boot: Boot) -> Vec<Cipher> {
    let accepted: Option<&ClusterSecret> = secrets.accepted.as_ref();
    [Some(&secrets.present), accepted]
        .into_iter()
        .flatten()
        .map(|secret| Cipher::new(secret, boot))
        .collect()
}

#[cfg(test)]
mod tests;
