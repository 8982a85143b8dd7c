//! What the switch has to know of an Ethernet frame (pure): whom it is for, and how to make its
//! checksum right.
//!
//! A host's kernel leaves checksums to the device that would send the packet. Ours sends nothing
//! anywhere, so the switch computes them.

use std::net::IpAddr;

const HEADER: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A device's address.
pub type Mac = [u8; 6];

/// Whom a frame is for, by the address of the device and of the host.
#[must_use]
pub fn destination(frame: &[u8]) -> Option<(Mac, IpAddr)> {
    let mac: Mac = frame.get(0..6)?.try_into().ok()?;
    let packet = frame.get(HEADER..)?;
    let ip = match frame.get(12..14)? {
        [0x08, 0x00] => IpAddr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?),
        [0x86, 0xdd] => IpAddr::from(<[u8; 16]>::try_from(packet.get(24..40)?).ok()?),
        _ => return None,
    };
    Some((mac, ip))
}

/// Addresses a frame to a device, from another.
pub fn address(frame: &mut [u8], to: Mac, from: Mac) {
    if let Some(place) = frame.get_mut(0..6) {
        place.copy_from_slice(&to);
    }
    if let Some(place) = frame.get_mut(6..12) {
        place.copy_from_slice(&from);
    }
}

/// Writes the checksum of a TCP or UDP packet that is whole; leaves everything else as it is.
pub fn sum_up(frame: &mut [u8]) {
    let ethernet: Option<[u8; 2]> = frame.get(12..14).and_then(|kind| kind.try_into().ok());
    let Some(packet) = frame.get_mut(HEADER..) else {
        return;
    };
    // Not before its bounds were looked at: what is cut short stays as it is.
    let _ = match ethernet {
        Some([0x08, 0x00]) => sum_up_four(packet),
        Some([0x86, 0xdd]) => sum_up_six(packet),
        _ => None,
    };
}

fn sum_up_four(packet: &mut [u8]) -> Option<()> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?);
    let protocol = *packet.get(9)?;
    if fragment & 0x3fff != 0 {
        return None;
    }
    let addresses: [u8; 8] = packet.get(12..20)?.try_into().ok()?;
    write_sum(packet.get_mut(header..length)?, protocol, &addresses)
}

fn sum_up_six(packet: &mut [u8]) -> Option<()> {
    let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
    let protocol = *packet.get(6)?;
    let addresses: [u8; 32] = packet.get(8..40)?.try_into().ok()?;
    write_sum(packet.get_mut(40..40 + length)?, protocol, &addresses)
}

/// Of the segment with its pseudo header (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1).
fn write_sum(segment: &mut [u8], protocol: u8, addresses: &[u8]) -> Option<()> {
    let place = match protocol {
        TCP => 16..18,
        UDP => 6..8,
        _ => return None,
    };
    let four = addresses.len() == 8;
    if protocol == UDP && four && segment.get(place.clone())? == [0, 0] {
        // Sent without one.
        return None;
    }
    segment.get_mut(place.clone())?.fill(0);
    let length = u32::try_from(segment.len()).ok()?;
    let total = add(addresses, 0) + u64::from(protocol) + u64::from(length);
    let sum = fold(add(segment, total));
    // None is told from 0 by its opposite.
    let sum = if sum == 0 && protocol == UDP {
        0xffff
    } else {
        sum
    };
    segment.get_mut(place)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

fn add(bytes: &[u8], start: u64) -> u64 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
        [last] => u64::from(*last) << 8,
        _ => 0,
    });
    start + words.sum::<u64>()
}

fn fold(mut sum: u64) -> u16 {
    while 0xffff < sum {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram `10.77.0.1:1 -> 10.77.0.2:2` with the odd payload `abc`.
    fn datagram(sum: [u8; 2]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 254, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([
            0x45, 0, 0, 31, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2,
        ]);
        frame.extend([0, 1, 0, 2, 0, 11, sum[0], sum[1]]);
        frame.extend(b"abc");
        frame
    }

    #[test]
    fn a_frame_says_whom_it_is_for() {
        let (mac, ip) = destination(&datagram([0, 0])).expect("an address");
        assert_eq!(
            (mac, ip),
            ([2, 0, 0, 0, 0, 254], IpAddr::from([10, 77, 0, 2]))
        );
        let mut answered = datagram([0, 0]);
        address(&mut answered, [1; 6], [3; 6]);
        assert_eq!(&answered[..12], [1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3]);
        assert_eq!(destination(&[0; 13]), None);
        assert_eq!(destination(&[0; 40]), None, "neither of the two kinds");
    }

    #[test]
    fn a_checksum_makes_everything_add_up_to_nothing() {
        let mut frame = datagram([7, 7]);
        sum_up(&mut frame);
        let written = [frame[40], frame[41]];
        assert_ne!(written, [7, 7]);
        let pseudo = add(&frame[26..34], u64::from(UDP) + 11);
        assert_eq!(fold(add(&frame[34..], pseudo)), 0);
        // Once more changes nothing; no sum stays no sum.
        sum_up(&mut frame);
        assert_eq!([frame[40], frame[41]], written);
        let mut without = datagram([0, 0]);
        sum_up(&mut without);
        assert_eq!(without, datagram([0, 0]));
    }

    #[test]
    fn what_is_cut_short_or_a_fragment_stays_as_it_is() {
        let whole = datagram([7, 7]);
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            sum_up(&mut cut);
            assert_eq!(cut, whole[..length]);
        }
        let mut fragment = datagram([7, 7]);
        fragment[20] = 0x20;
        let before = fragment.clone();
        sum_up(&mut fragment);
        assert_eq!(fragment, before);
    }
}
