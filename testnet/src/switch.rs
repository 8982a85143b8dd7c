//! The switch: a thread that takes what hosts send and hands it on as the rules say.
//!
//! Each host is joined by a pair of devices, one of them in a namespace of the switch. Hosts
//! know nothing of each other: they send everything to one gateway, so no question who has an
//! address can go unanswered, and a link that is cut is a black hole. The switch answers
//! nothing by itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, send, socket,
};
use parking_lot::{Condvar, Mutex};

use crate::frame::{self, Mac};
use crate::link::{Counts, Link, Rules};
use crate::namespace::{Failed, Namespace, failed};

/// Packets under way at once; what comes above that is lost.
const UNDER_WAY_MAX: usize = 50_000;
/// The largest frame that a device hands over.
const FRAME_MAX: usize = 65_536 + 14;

/// Number of a host, 1 to 200.
pub(crate) type Number = u8;

/// Where hosts send everything.
pub(crate) const GATEWAY: Number = 254;

pub(crate) fn mac(number: Number) -> Mac {
    [2, 0, 0, 0, 0, number]
}

pub(crate) fn four(number: Number) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

pub(crate) fn six(number: Number) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())
}

fn number(ip: IpAddr) -> Option<Number> {
    match ip {
        IpAddr::V4(ip) => Some(ip.octets()[3]).filter(|last| four(*last) == ip),
        IpAddr::V6(ip) => Some(ip.octets()[15]).filter(|last| six(*last) == ip),
    }
}

/// A packet under way; the earliest comes first, and of two the one that was sent first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    at: Instant,
    order: u64,
    to: Number,
    frame: Vec<u8>,
}

struct State {
    seed: u64,
    links: HashMap<(Number, Number), Link>,
    ports: HashMap<Number, Arc<OwnedFd>>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sent: u64,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Something is under way that is due before everything else.
    earlier: Condvar,
}

/// Carries packets until it is dropped.
pub(crate) struct Switch {
    shared: Arc<Shared>,
    /// Where its ends of the pairs are.
    inside: Namespace,
}

impl Switch {
    pub(crate) fn start(seed: u64) -> Result<Self, Failed> {
        let inside = Namespace::new()?;
        let state = State {
            seed,
            links: HashMap::new(),
            ports: HashMap::new(),
            under_way: BinaryHeap::new(),
            sent: 0,
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            earlier: Condvar::new(),
        });
        let running = shared.clone();
        thread("switch", move || deliver(&running))?;
        Ok(Self { shared, inside })
    }

    /// Joins a host, whose network nobody else has set up.
    pub(crate) fn join(&self, number: Number, host: &Namespace) -> Result<(), Failed> {
        let (hub, own) = (self.inside.path(), MacText(mac(number)));
        // No segments above the size of a packet: the switch hands on packets.
        host.ip(&format!(
            "link set lo up\n\
             link add eth0 address {own} type veth peer name h{number} netns {hub}\n\
             link set eth0 gso_max_segs 1 up\n"
        ))?;
        self.inside
            .ip(&format!("link set h{number} gso_max_segs 1 up\n"))?;
        let (gateway, there) = (MacText(mac(GATEWAY)), GATEWAY);
        host.ip(&format!(
            "addr add {}/32 dev eth0\n\
             addr add {}/128 dev eth0 nodad\n\
             neigh add {four} lladdr {gateway} dev eth0 nud permanent\n\
             neigh add {six} lladdr {gateway} dev eth0 nud permanent\n\
             route add default via {four} dev eth0 onlink\n\
             route add ::/0 via {six} dev eth0 onlink\n",
            four(number),
            six(number),
            four = four(there),
            six = six(there),
        ))?;
        let port = self.inside.run(move || port(&format!("h{number}")))?;
        let port = Arc::new(port);
        let shared = self.shared.clone();
        shared.state.lock().ports.insert(number, port.clone());
        thread("switch port", move || read(&shared, number, &port))
    }

    pub(crate) fn set(&self, from: Number, to: Number, rules: Rules) {
        let now = Instant::now();
        self.shared.state.lock().link(from, to, now).set(rules, now);
    }

    pub(crate) fn counts(&self, from: Number, to: Number) -> Counts {
        let now = Instant::now();
        self.shared.state.lock().link(from, to, now).counts()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.earlier.notify_one();
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failed> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop).map_err(failed("a thread"))
}

/// An address as `ip` reads it.
struct MacText(Mac);

impl std::fmt::Display for MacText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&parts.join(":"))
    }
}

/// A socket that takes and gives whole frames of a device.
fn port(device: &str) -> Result<OwnedFd, Failed> {
    let mut devices = getifaddrs().map_err(failed("devices"))?;
    let address: LinkAddr = devices
        .find_map(|found| match found.interface_name == device {
            true => found.address?.as_link_addr().copied(),
            false => None,
        })
        .ok_or_else(|| Failed(format!("{device} is not there")))?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let all = SockProtocol::EthAll;
    let port = socket(AddressFamily::Packet, SockType::Raw, flags, all);
    let port = port.map_err(failed("a packet socket"))?;
    bind(port.as_raw_fd(), &address).map_err(failed(device))?;
    Ok(port)
}

impl State {
    fn link(&mut self, from: Number, to: Number, now: Instant) -> &mut Link {
        let seed = self.seed ^ (u64::from(from) << 8 | u64::from(to)).wrapping_mul(0x9e37_79b9);
        let link = self.links.entry((from, to));
        link.or_insert_with(|| Link::new(seed, now))
    }

    /// Decides about a frame; true if it is due before everything else that is under way.
    fn take(&mut self, from: Number, frame: &[u8], now: Instant) -> bool {
        let Some((device, ip)) = frame::destination(frame) else {
            return false;
        };
        let Some(to) = number(ip).filter(|to| self.ports.contains_key(to)) else {
            return false;
        };
        // What the switch itself sent is heard, too.
        if device != mac(GATEWAY) {
            return false;
        }
        let arrivals = self.link(from, to, now).send(now);
        let mut is_earlier = false;
        for at in arrivals.into_iter().flatten() {
            let mut frame = frame.to_vec();
            frame::address(&mut frame, mac(to), mac(GATEWAY));
            frame::sum_up(&mut frame);
            if at <= now {
                self.hand_over(to, &frame);
            } else if self.under_way.len() < UNDER_WAY_MAX {
                is_earlier |= self.under_way.peek().is_none_or(|first| at < first.0.at);
                self.sent += 1;
                let order = self.sent;
                let packet = UnderWay {
                    at,
                    order,
                    to,
                    frame,
                };
                self.under_way.push(Reverse(packet));
            }
        }
        is_earlier
    }

    /// A device that takes nothing loses it, as devices do.
    fn hand_over(&self, to: Number, frame: &[u8]) {
        if let Some(port) = self.ports.get(&to) {
            let _ = send(port.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
        }
    }

    /// Hands over what is due, and says when the next is.
    fn deliver(&mut self, now: Instant) -> Option<Instant> {
        loop {
            match self.under_way.peek() {
                Some(Reverse(first)) if first.at <= now => {}
                Some(Reverse(first)) => return Some(first.at),
                None => return None,
            }
            if let Some(Reverse(packet)) = self.under_way.pop() {
                self.hand_over(packet.to, &packet.frame);
            }
        }
    }
}

/// Hands over what is due, until the switch is dropped.
fn deliver(shared: &Shared) {
    let mut state = shared.state.lock();
    while !state.closed {
        match state.deliver(Instant::now()) {
            Some(at) => drop(shared.earlier.wait_until(&mut state, at)),
            None => shared.earlier.wait(&mut state),
        }
    }
}

/// Takes what a host sends, until its device is gone.
fn read(shared: &Shared, from: Number, port: &OwnedFd) {
    let mut buffer = vec![0; FRAME_MAX];
    while let Ok(length) = nix::unistd::read(port, &mut buffer) {
        let frame = buffer.get(..length).unwrap_or_default();
        let mut state = shared.state.lock();
        if state.closed {
            return;
        }
        if state.take(from, frame, Instant::now()) {
            shared.earlier.notify_one();
        }
    }
}
