//! Channels that talk over a network which the test moves by hand.

use proptest::prelude::*;

use super::*;

fn secret(seed: u8) -> ClusterSecret {
    let bytes: Vec<u8> = (seed..seed + 32).collect();
    ClusterSecret::from_bytes(&bytes).unwrap()
}

const BOUNDS: Bounds = Bounds {
    senders_max: 4,
    delay_max: Duration::from_secs(5),
};

fn channel(boot: u8, secrets: impl Into<Secrets>) -> Channel {
    Channel::new(secrets.into(), Boot([boot; 16]), &[boot; 32], BOUNDS)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets both prove themselves: `from` speaks first. Returns all datagrams that were sent.
fn introduce(from: &mut Channel, to: &mut Channel, now: Duration) -> Vec<Vec<u8>> {
    let first = from.seal(b"first", now).remove(0);
    let mut sent = vec![first.clone()];
    let mut received = to.receive(&first, now);
    assert_eq!(received.dropped, Some(Reason::Unproven));
    let mut back = true;
    while let Some(reply) = received.reply {
        sent.push(reply.clone());
        assert!(sent.len() < 6, "the greeting does not end");
        received = if back {
            from.receive(&reply, now)
        } else {
            to.receive(&reply, now)
        };
        assert_eq!(received.dropped, None);
        back = !back;
    }
    sent
}

#[track_caller]
fn passes(from: &mut Channel, to: &mut Channel, now: Duration) {
    let datagram = from.seal(b"fact", now).remove(0);
    let received = to.receive(&datagram, now);
    assert_eq!(
        received.message.as_deref(),
        Some(&b"fact"[..]),
        "{received:?}"
    );
}

#[track_caller]
fn drops(to: &mut Channel, datagram: &[u8], reason: Reason, now: Duration) {
    let received = to.receive(datagram, now);
    assert_eq!(received.dropped, Some(reason));
    assert_eq!(received.message, None);
}

#[test]
fn two_boots_that_meet_prove_themselves_with_three_greetings() {
    let (mut a, mut b) = (channel(1, secret(0)), channel(2, secret(0)));
    let sent = introduce(&mut a, &mut b, at(1));
    assert_eq!(sent.len(), 1 + 3);
    passes(&mut a, &mut b, at(1));
    passes(&mut b, &mut a, at(1));
}

#[test]
fn a_long_message_arrives_in_small_datagrams_and_a_longer_one_is_not_sent() {
    let (mut a, mut b) = (channel(1, secret(0)), channel(2, secret(0)));
    introduce(&mut a, &mut b, at(1));
    // The largest that the gossip library makes.
    let message: Vec<u8> = (0..65_507_u32).map(|byte| byte as u8).collect();
    let parts = a.seal(&message, at(1));
    assert!(parts.iter().all(|part| part.len() <= DATAGRAM_BYTES_MAX));
    let mut whole = None;
    for part in parts.iter().rev() {
        assert_eq!(whole, None);
        whole = b.receive(part, at(1)).message;
    }
    assert_eq!(whole, Some(message));
    assert!(a.seal(&vec![0; 64 * PART_BYTES_MAX + 1], at(1)).is_empty());
}

#[test]
fn a_recording_is_worth_nothing_to_whoever_heard_it_and_to_whoever_restarted() {
    let (mut a, mut b) = (channel(1, secret(0)), channel(2, secret(0)));
    let mut recorded = introduce(&mut a, &mut b, at(1));
    recorded.push(a.seal(b"fact", at(2)).remove(0));
    assert!(b.receive(recorded.last().unwrap(), at(2)).message.is_some());
    for datagram in &recorded {
        let received = b.receive(datagram, at(3));
        assert!(received.message.is_none() && received.reply.is_none());
        assert!(received.dropped.is_some());
    }

    // The receiver's next life knows nobody; it asks, and who replays cannot answer.
    let mut b = channel(3, secret(0));
    for datagram in &recorded {
        let received = b.receive(datagram, at(4));
        assert!(received.message.is_none() && received.dropped.is_some());
    }
    assert_eq!(b.senders.len(), 0);
    introduce(&mut a, &mut b, at(5));
    for datagram in &recorded {
        let received = b.receive(datagram, at(6));
        assert!(received.message.is_none() && received.dropped.is_some());
    }
    passes(&mut a, &mut b, at(7));
}

#[test]
fn the_proof_of_an_earlier_time_is_void() {
    let (mut a, mut b) = (channel(1, secret(0)), channel(2, secret(0)));
    let first = a.seal(b"first", at(1)).remove(0);
    let asked = b.receive(&first, at(1)).reply.unwrap();
    let proof = a.receive(&asked, at(1)).reply.unwrap();
    // Held back for longer than two periods: the cookie is not good any more.
    assert_eq!(b.receive(&proof, at(20)).message, None);
    assert_eq!(b.senders.len(), 0);
}

#[test]
fn a_cookie_is_good_for_the_boot_it_was_given_to_only() {
    let mut b = channel(9, secret(0));
    let mut a = channel(1, secret(0));
    let first = a.seal(b"first", at(1)).remove(0);
    assert!(b.receive(&first, at(1)).reply.is_some());
    let cookie = b.cookie(Boot([1; 16]), period(at(1)));
    let mut gives = |from: &mut Channel| {
        let hello = Hello {
            gives: Some(cookie),
            asks: None,
            ..greeting_for(Boot([9; 16]))
        };
        let datagram = from.seal_one(Body::Hello(hello), at(1));
        b.receive(&datagram, at(1));
        b.senders.len()
    };
    assert_eq!(gives(&mut channel(2, secret(0))), 0);
    assert_eq!(gives(&mut a), 1);
}

#[test]
fn a_sender_that_was_forgotten_is_not_brought_back_by_its_old_proof() {
    let mut b = channel(9, secret(0));
    let mut a = channel(1, secret(0));
    let first = a.seal(b"first", at(1)).remove(0);
    let asked = b.receive(&first, at(1)).reply.unwrap();
    let proof = a.receive(&asked, at(1)).reply.unwrap();
    assert!(b.receive(&proof, at(1)).dropped.is_none());
    let fact = a.seal(b"fact", at(1)).remove(0);
    for boot in 2..=5 {
        introduce(&mut channel(boot, secret(0)), &mut b, at(2));
    }
    assert_eq!(b.senders.len(), BOUNDS.senders_max);
    assert!(!b.senders.contains_key(&Boot([1; 16])));
    b.receive(&proof, at(2));
    assert!(!b.senders.contains_key(&Boot([1; 16])));
    drops(&mut b, &fact, Reason::Unproven, at(2));
    // Who is there may prove it again.
    introduce(&mut a, &mut b, at(3));
    passes(&mut a, &mut b, at(3));
}

#[test]
fn what_was_held_back_is_dropped_and_a_stopped_clock_is_begun_anew() {
    let (mut a, mut b) = (channel(1, secret(0)), channel(2, secret(0)));
    introduce(&mut a, &mut b, at(1));
    let held = a.seal(b"fact", at(2)).remove(0);
    passes(&mut a, &mut b, at(7));
    drops(&mut b, &held, Reason::Stale, at(8));

    // The sender's machine slept for an hour: its clock is behind for good.
    let sent = a.seal(b"fact", at(10)).remove(0);
    let received = b.receive(&sent, at(3610));
    assert_eq!(received.dropped, Some(Reason::Stale));
    let proof = a.receive(&received.reply.unwrap(), at(10)).reply.unwrap();
    assert!(b.receive(&proof, at(3610)).dropped.is_none());
    let sent = a.seal(b"fact", at(11)).remove(0);
    assert!(b.receive(&sent, at(3611)).message.is_some());
}

#[test]
fn secrets_change_in_three_steps_while_datagrams_flow() {
    let (old, new) = (secret(0), secret(100));
    let both = |present: &ClusterSecret, accepted: &ClusterSecret| Secrets {
        present: present.clone(),
        accepted: Some(accepted.clone()),
    };
    let (mut a, mut b) = (channel(1, old.clone()), channel(2, old.clone()));
    introduce(&mut a, &mut b, at(1));
    for step in [both(&old, &new), both(&new, &old), new.clone().into()] {
        // One node after the other; at any moment each understands the other.
        a.rotate(step.clone());
        passes(&mut a, &mut b, at(2));
        passes(&mut b, &mut a, at(2));
        b.rotate(step);
        passes(&mut a, &mut b, at(2));
        passes(&mut b, &mut a, at(2));
    }
    // In between it shows who is behind.
    a.rotate(both(&new, &old));
    b.rotate(both(&old, &new));
    let datagram = b.seal(b"fact", at(2)).remove(0);
    assert!(a.receive(&datagram, at(2)).under_accepted);
    b.rotate(both(&new, &old));
    let datagram = b.seal(b"fact", at(2)).remove(0);
    assert!(!a.receive(&datagram, at(2)).under_accepted);
    b.rotate(new.clone().into());
    let mut late = channel(3, old);
    let datagram = late.seal(b"fact", at(3)).remove(0);
    drops(&mut b, &datagram, Reason::Unauthentic, at(3));
}

#[test]
fn each_bad_datagram_is_dropped_for_its_reason() {
    let (mut a, mut b) = (channel(1, secret(0)), channel(2, secret(0)));
    introduce(&mut a, &mut b, at(1));
    drops(&mut b, b"hello", Reason::Malformed, at(1));
    drops(&mut b, &[0; 100], Reason::Malformed, at(1));
    drops(&mut b, &[1; 1233], Reason::Oversized, at(1));
    drops(&mut b, &[1; 1232], Reason::Unauthentic, at(1));
    let own = b.seal(b"fact", at(1)).remove(0);
    drops(&mut b, &own, Reason::Own, at(1));
    let first = a.seal(b"fact", at(1)).remove(0);
    (0..1100).for_each(|_| passes(&mut a, &mut b, at(1)));
    drops(&mut b, &first, Reason::Behind, at(1));
    // A greeting for somebody else, led here.
    let unread = a.seal_one(Body::Hello(greeting_for(Boot([7; 16]))), at(1));
    drops(&mut b, &unread, Reason::Unproven, at(1));
    passes(&mut a, &mut b, at(1));
}

fn greeting_for(to: Boot) -> Hello {
    Hello {
        to,
        asks: Some([1; 16]),
        gives: None,
    }
}

#[test]
fn a_flood_of_recordings_draws_a_bounded_number_of_answers() {
    let mut b = channel(2, secret(0));
    let mut answers = 0;
    for boot in 10..=250 {
        let mut stranger = channel(boot, secret(0));
        for datagram in stranger.seal(&[0; 4000], at(1)) {
            answers += u32::from(b.receive(&datagram, at(1)).reply.is_some());
        }
    }
    assert_eq!(answers, HELLOS_PER_SECOND);
    assert_eq!(b.senders.len(), 0);
    let mut a = channel(1, secret(0));
    introduce(&mut a, &mut b, at(2));
}

proptest! {
    /// Whatever an attacker does with recordings of three boots, a message is taken in once, and
    /// only from boots that proved themselves.
    #[test]
    fn no_message_is_taken_in_twice(
        steps in prop::collection::vec((0_u8..6, any::<prop::sample::Index>(), 0_u64..3), 1..150),
    ) {
        let mut nodes: Vec<Channel> = (1..=3).map(|boot| channel(boot, secret(0))).collect();
        let mut recorded: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut taken: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut now = at(1);
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            let [a, b] = nodes.get_disjoint_mut([a, b]).unwrap();
            recorded.extend(introduce(a, b, now).into_iter().map(|datagram| (3, datagram)));
            passes(a, b, now);
        }
        let mut boots = 3_u8;
        for (number, (what, which, later)) in steps.into_iter().enumerate() {
            now += at(later);
            let node = which.index(nodes.len());
            match what {
                // A message that occurs once in the run is sent to somebody.
                0 | 1 => {
                    let message = (number as u64).to_be_bytes();
                    for datagram in nodes[node].seal(&message, now) {
                        recorded.push((node, datagram));
                    }
                }
                // A restart: a new boot in the place of the old one.
                2 => {
                    boots += 1;
                    nodes[node] = channel(boots, secret(0));
                    taken.retain(|(at, _)| *at != node);
                }
                // Anything recorded is given to anybody, again and again.
                _ => {
                    if recorded.is_empty() {
                        continue;
                    }
                    let (from, datagram) = recorded[which.index(recorded.len())].clone();
                    let to = (which.index(usize::MAX) + number) % nodes.len();
                    let received = nodes[to].receive(&datagram, now);
                    if let Some(reply) = received.reply {
                        recorded.push((to, reply));
                    }
                    if let Some(message) = received.message {
                        let entry = (to, message);
                        prop_assert!(!taken.contains(&entry), "twice: {:?} of {}", entry, from);
                        taken.push(entry);
                    }
                }
            }
        }
    }
}
