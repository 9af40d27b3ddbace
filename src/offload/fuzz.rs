//! What the fuzz target of offloads runs, and what the unit tests replay its corpus through: any offload, said of any
//! bytes. What is believed must be as it says, and what is made of it is judged by other code than what makes it.

use super::{Lost, Merger, SuperPackets, check, complete_checksum, cut_others, segment, split};
use crate::packet::{BufPool, Checksum, Offload, Packet, Raw};

/// Bytes in front of the packet: choice, segments of a piece, and five words (start, offset, segment size, header length,
/// MTU).
const HEAD_BYTES: usize = 12;

/// Bits of the choice.
const IS_PARTIAL: u8 = 1;
/// The packet's own lengths and checksums are put right, so that whatever is a lie is so in the offload alone.
const IS_SOUND: u8 = 2;

/// More than is ever made of one packet: nothing is lost for want of a buffer, unless the pool is bounded on purpose.
const POOL_BYTES: u64 = 1 << 28;
/// As it may be in an emergency: a few buffers of the smallest class.
const SMALL_POOL_BYTES: u64 = 1 << 13;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN_OR_RST: u8 = 0x02 | 0x04;
/// The more-fragments flag and the offset (RFC 791, 3.1).
const FRAGMENTED: u16 = 0x3fff;
/// The limits of docs/protocol.md.
const TCP_SEGMENT_BYTES_MIN: usize = 48;
const UDP_SEGMENTS_MAX: usize = 128;

/// The first bytes choose the offload, the others are the packet.
pub fn offload(data: &[u8]) {
    let Some((head, bytes)) = data.split_first_chunk::<HEAD_BYTES>() else { return };
    let mut bytes = bytes[..bytes.len().min(usize::from(u16::MAX))].to_vec();
    let [start, offset, segment_bytes, header_bytes, mtu_bytes] = [2, 4, 6, 8, 10].map(|at| word(head, at));
    let checksum = match head[0] & IS_PARTIAL {
        0 => Checksum::Complete,
        _ => Checksum::Partial { start, offset },
    };
    if head[0] & IS_SOUND != 0
        && let Some(fields) = Fields::read(&bytes)
    {
        fields.seal(&mut bytes, head[0] & IS_PARTIAL != 0);
    }
    let said = Said { offload: Offload { checksum, segment_bytes, header_bytes }, mtu_bytes: mtu_bytes.into() };
    let pieces = head[1].into();
    said.is_handled_in_a_small_pool(&bytes, pieces);
    match check(&bytes, said.offload, said.mtu_bytes) {
        Ok(()) if said.offload == Offload::default() => {}
        Ok(()) => said.is_true(&bytes, pieces),
        Err(_) => said.is_accounted_for(&bytes),
    }
}

/// What is said of a packet, and the MTU of its way.
#[derive(Clone, Copy, Debug)]
struct Said {
    offload: Offload,
    mtu_bytes: usize,
}

impl Said {
    fn packet(self, bytes: &[u8], pool: &BufPool) -> Packet<Raw> {
        Packet::raw(pool.copy(bytes).expect("room"), self.offload)
    }

    /// Whatever the packet and the pool: nothing panics, and no segment is forgotten, unless there are more of them than a
    /// packet may weigh.
    fn is_handled_in_a_small_pool(self, bytes: &[u8], pieces: u32) {
        let (large, small) = (BufPool::new(POOL_BYTES), BufPool::new(SMALL_POOL_BYTES));
        for pool in [&large, &small] {
            for segments_max in [1, pieces] {
                let packet = self.packet(bytes, &large);
                let (segments, mut handed_out) = (packet.segments(), 0);
                let done = split(packet, segments_max, pool, &mut |piece| handed_out += piece.segments());
                let told = handed_out + done.map_or_else(Lost::segments, |()| 0);
                assert!(told == segments || self.weighs_less(bytes), "{told} of {segments} are told of");
            }
            let mut batch = vec![self.packet(bytes, &large), self.packet(bytes, &large)];
            Merger::default().merge(&mut batch, SuperPackets::ALL, pool);
            cut_others(&mut batch, &mut vec![], SuperPackets::TCP, pool);
            for packet in &mut batch {
                complete_checksum(packet);
            }
        }
        assert_eq!((large.held_bytes(), small.held_bytes()), (0, 0), "every buffer came back");
    }

    /// Whether the segments are so many that only a lie can make them.
    fn weighs_less(self, bytes: &[u8]) -> bool {
        let Offload { segment_bytes, header_bytes, .. } = self.offload;
        let payload_bytes = bytes.len().saturating_sub(header_bytes.into());
        let most = (payload_bytes / TCP_SEGMENT_BYTES_MIN).max(UDP_SEGMENTS_MAX);
        payload_bytes.div_ceil(usize::from(segment_bytes).max(1)) > most
    }

    /// A lie: what is joined of such packets carries each of their bytes still.
    fn is_accounted_for(self, bytes: &[u8]) {
        let pool = BufPool::new(POOL_BYTES);
        let mut batch = vec![self.packet(bytes, &pool)];
        Merger::default().merge(&mut batch, SuperPackets::ALL, &pool);
        let [alone] = &batch[..] else { panic!("one packet is one packet") };
        assert_eq!((alone.bytes(), alone.offload()), (bytes, self.offload));
    }

    /// It was believed: it is as it says, and can be cut and joined again.
    fn is_true(self, bytes: &[u8], pieces: u32) {
        let fields = Fields::read(bytes).expect("TCP or UDP");
        fields.assert_lengths(bytes);
        fields.assert_says(self, bytes);
        let pool = BufPool::new(POOL_BYTES);
        let packet = self.packet(bytes, &pool);
        let count = packet.segments() as usize;
        let singles = segments(packet, &pool);
        assert_eq!(singles.len(), count, "as many as it weighs");
        if count == 1 {
            return fields.assert_completed(bytes, &singles[0]);
        }
        assert!(self.offload.segment_bytes > 0);
        fields.assert_cut(self, bytes, &singles);
        self.is_split(bytes, pieces, &singles);
        self.is_joined(singles.iter().map(|single| whole(single, &pool)).collect(), &singles);
    }

    /// Smaller super-packets stand for the same packets, and are as true.
    fn is_split(self, bytes: &[u8], pieces: u32, singles: &[Vec<u8>]) {
        let (pool, mut found) = (BufPool::new(POOL_BYTES), Vec::new());
        split(self.packet(bytes, &pool), pieces, &pool, &mut |piece| found.push(piece)).expect("it was believed");
        for piece in &found {
            assert!(piece.segments() <= pieces.max(1));
            check(piece.bytes(), piece.offload(), self.mtu_bytes).expect("a piece is as true");
        }
        self.is_joined(found, singles);
    }

    /// What is joined of `packets`, which are one flow's in their order, stands for `singles`.
    fn is_joined(self, mut packets: Vec<Packet<Raw>>, singles: &[Vec<u8>]) {
        let pool = BufPool::new(POOL_BYTES);
        Merger::default().merge(&mut packets, SuperPackets::ALL, &pool);
        assert_eq!(payload_of(packets.iter().map(Packet::bytes)), payload_of(singles.iter().map(Vec::as_slice)));
        for packet in &packets {
            check(packet.bytes(), packet.offload(), self.mtu_bytes).expect("what is joined is as true");
        }
        let cut: Vec<_> = packets.into_iter().flat_map(|packet| segments(packet, &pool)).collect();
        assert_eq!(cut, singles, "and is cut to the same");
    }
}

fn whole(bytes: &[u8], pool: &BufPool) -> Packet<Raw> {
    Packet::raw(pool.copy(bytes).expect("room"), Offload::default())
}

fn segments(packet: Packet<Raw>, pool: &BufPool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let done = segment(packet, pool, &mut |single| {
        assert_eq!(single.offload(), Offload::default(), "nothing is left to be done");
        found.push(single.bytes().to_vec());
    });
    done.expect("what is believed can be cut");
    found
}

fn payload_of<'a>(packets: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    packets.flat_map(|bytes| &bytes[Fields::read(bytes).expect("TCP or UDP").payload..]).copied().collect()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn set_word(bytes: &mut [u8], at: usize, word: usize) {
    bytes[at..at + 2].copy_from_slice(&(word as u16).to_be_bytes());
}

/// The Internet checksum's sum as RFC 1071 tells it: word by word.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    ((folded >> 16) + (folded & 0xffff)) as u16
}

/// Where a packet's fields are, read as the RFCs have it and by nothing of what is judged here.
#[derive(Clone, Copy, Debug)]
struct Fields {
    is_v4: bool,
    protocol: u8,
    transport: usize,
    payload: usize,
}

impl Fields {
    fn read(bytes: &[u8]) -> Option<Self> {
        let is_v4 = match bytes.first()? >> 4 {
            4 => true,
            6 => false,
            _ => return None,
        };
        let (transport, protocol) =
            if is_v4 { (usize::from(bytes[0] & 0xf) * 4, *bytes.get(9)?) } else { (40, *bytes.get(6)?) };
        let header_bytes = match protocol {
            TCP => usize::from(*bytes.get(transport + 12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        let (ip_bytes_min, header_bytes_min) = (if is_v4 { 20 } else { 40 }, if protocol == TCP { 20 } else { 8 });
        let payload = transport + header_bytes;
        let fits = transport >= ip_bytes_min && header_bytes >= header_bytes_min && payload <= bytes.len();
        fits.then_some(Self { is_v4, protocol, transport, payload })
    }

    fn checksum(&self) -> usize {
        self.transport + if self.protocol == TCP { 16 } else { 6 }
    }

    fn pseudo_header(&self, bytes: &[u8]) -> Vec<u8> {
        let addresses = if self.is_v4 { &bytes[12..20] } else { &bytes[8..40] };
        let length = (bytes.len() - self.transport) as u16;
        [addresses, &[0, self.protocol], &length.to_be_bytes()].concat()
    }

    /// Puts lengths and checksums right; a partial one is the pseudo-header's sum.
    fn seal(&self, bytes: &mut [u8], is_partial: bool) {
        let len = bytes.len();
        if self.is_v4 {
            set_word(bytes, 2, len);
            set_word(bytes, 10, 0);
            let checksum = !sum(&[&bytes[..self.transport]]);
            set_word(bytes, 10, checksum.into());
        } else {
            set_word(bytes, 4, len - 40);
        }
        if self.protocol == UDP {
            set_word(bytes, self.transport + 4, len - self.transport);
        }
        let pseudo_header = self.pseudo_header(bytes);
        set_word(bytes, self.checksum(), 0);
        let checksum = if is_partial { sum(&[&pseudo_header]) } else { self.whole_sum(bytes) };
        set_word(bytes, self.checksum(), checksum.into());
    }

    /// The transport's checksum, whose field is zero.
    fn whole_sum(&self, bytes: &[u8]) -> u16 {
        match !sum(&[&self.pseudo_header(bytes), &bytes[self.transport..]]) {
            0 if self.protocol == UDP => 0xffff,
            checksum => checksum,
        }
    }

    fn assert_lengths(&self, bytes: &[u8]) {
        match self.is_v4 {
            true => assert_eq!(usize::from(word(bytes, 2)), bytes.len(), "IPv4's total length"),
            false => assert_eq!(usize::from(word(bytes, 4)) + 40, bytes.len(), "IPv6's payload length"),
        }
        if self.protocol == UDP {
            assert_eq!(usize::from(word(bytes, self.transport + 4)) + self.transport, bytes.len(), "UDP's length");
        }
    }

    /// Every field of an offload that was believed.
    fn assert_says(&self, said: Said, bytes: &[u8]) {
        let Offload { checksum, segment_bytes, header_bytes } = said.offload;
        let place =
            Checksum::Partial { start: self.transport as u16, offset: (self.checksum() - self.transport) as u16 };
        assert_eq!(checksum, place, "the checksum's place is the protocol's");
        assert!(!self.is_v4 || word(bytes, 6) & FRAGMENTED == 0, "no fragment");
        if segment_bytes == 0 {
            return assert_eq!(header_bytes, 0, "a single packet repeats no header");
        }
        assert_eq!(usize::from(header_bytes), self.payload, "the headers' length");
        match self.protocol {
            TCP => {
                assert!(usize::from(segment_bytes) >= TCP_SEGMENT_BYTES_MIN);
                assert_eq!(bytes[self.transport + 13] & SYN_OR_RST, 0, "no connection opens or ends many times");
            }
            _ => assert!((bytes.len() - self.payload).div_ceil(segment_bytes.into()) <= UDP_SEGMENTS_MAX),
        }
    }

    /// A single packet is as it came but for the transport checksum, which is right if its partial one was.
    fn assert_completed(&self, came: &[u8], single: &[u8]) {
        let at = self.checksum();
        assert_eq!((&came[..at], &came[at + 2..]), (&single[..at], &single[at + 2..]));
        if word(came, at) == sum(&[&self.pseudo_header(came)]) {
            self.assert_checksum(single);
        }
    }

    fn assert_checksum(&self, bytes: &[u8]) {
        let mut zeroed = bytes.to_vec();
        set_word(&mut zeroed, self.checksum(), 0);
        // Both forms of zero are right.
        let (found, right) = (word(bytes, self.checksum()), self.whole_sum(&zeroed));
        assert!(
            found == right || (self.protocol == TCP && (found, right) == (0xffff, 0)),
            "{found:#x}, not {right:#x}"
        );
    }

    /// The segments carry the payload in its order, each with headers that are true for itself.
    fn assert_cut(&self, said: Said, whole: &[u8], singles: &[Vec<u8>]) {
        assert_eq!(payload_of(singles.iter().map(Vec::as_slice)), whole[self.payload..], "no byte is lost");
        for (number, single) in singles.iter().enumerate() {
            assert!(single.len() <= said.mtu_bytes, "not above the MTU");
            let is_last = number == singles.len() - 1;
            let payload_bytes = single.len() - self.payload;
            assert!(payload_bytes == usize::from(said.offload.segment_bytes) || (is_last && payload_bytes > 0));
            self.assert_lengths(single);
            self.assert_checksum(single);
            if self.is_v4 {
                assert_eq!(sum(&[&single[..self.transport]]), 0xffff, "the IP header's checksum");
                assert_eq!(word(single, 4), word(whole, 4).wrapping_add(number as u16), "the identification counts on");
            }
            if self.protocol == TCP {
                self.assert_tcp(whole, single, number * usize::from(said.offload.segment_bytes), is_last);
            }
            self.assert_same(whole, single);
        }
    }

    fn assert_tcp(&self, whole: &[u8], single: &[u8], at: usize, is_last: bool) {
        let sequence = |bytes: &[u8]| {
            u32::from(word(bytes, self.transport + 4)) << 16 | u32::from(word(bytes, self.transport + 6))
        };
        assert_eq!(sequence(single), sequence(whole).wrapping_add(at as u32), "the sequence number counts on");
        // FIN and PSH are of the last segment alone, CWR of the first.
        let taken = if is_last { 0 } else { 0x09 } | if at == 0 { 0 } else { 0x80 };
        assert_eq!(single[self.transport + 13], whole[self.transport + 13] & !taken, "the flags");
    }

    /// All else in the headers is as it was.
    fn assert_same(&self, whole: &[u8], single: &[u8]) {
        let rest = |bytes: &[u8]| {
            let mut header = bytes[..self.payload].to_vec();
            let ip: &[usize] = if self.is_v4 { &[2, 4, 10] } else { &[4] };
            let transport: &[usize] = if self.protocol == TCP { &[4, 6, 16] } else { &[4, 6] };
            ip.iter().for_each(|&at| set_word(&mut header, at, 0));
            transport.iter().for_each(|&at| set_word(&mut header, self.transport + at, 0));
            if self.protocol == TCP {
                header[self.transport + 13] = 0;
            }
            header
        };
        assert_eq!(rest(single), rest(whole), "what all segments share");
    }
}

/// What a stage lets by can be cut to packets that a way of this MTU takes. For tests of stages.
#[cfg(test)]
pub(crate) fn assert_believable(bytes: &[u8], offload: Offload, mtu_bytes: usize) {
    if offload != Offload::default() {
        Said { offload, mtu_bytes }.is_true(bytes, 2);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Case, cases};
    use super::*;
    use crate::wire::fuzz::replay;

    #[test]
    fn every_committed_input_of_offloads_passes() {
        replay("offload", offload);
    }

    /// An offload that is nearly true: each of its words is so or not.
    #[derive(Clone, Copy, Debug)]
    struct Lies {
        choice: u8,
        pieces: u8,
        words: [Option<u16>; 5],
    }

    /// What the fuzz target takes: what `lies` leaves is true, and the MTU what the segments need.
    fn input(case: &Case, Lies { choice, pieces, words }: Lies) -> Vec<u8> {
        let Offload { checksum, segment_bytes, header_bytes } = case.offload();
        let Checksum::Partial { start, offset } = checksum else { panic!("a partial checksum") };
        let honest = [start, offset, segment_bytes, header_bytes, header_bytes + segment_bytes];
        let mut data = vec![choice, pieces];
        honest.into_iter().zip(words).for_each(|(honest, lie)| data.extend(lie.unwrap_or(honest).to_be_bytes()));
        data.extend(case.whole().bytes());
        data
    }

    fn lies() -> impl Strategy<Value = Lies> {
        let word = || {
            let few = (0..130_u16).prop_map(Some);
            prop_oneof![8 => Just(None), 1 => Just(Some(0)), 1 => few, 1 => any::<u16>().prop_map(Some)]
        };
        let choice = prop_oneof![4 => Just(IS_PARTIAL | IS_SOUND), 1 => any::<u8>()];
        (choice, any::<u8>(), [word(), word(), word(), word(), word()]).prop_map(|(choice, pieces, words)| Lies {
            choice,
            pieces,
            words,
        })
    }

    proptest! {
        #[test]
        fn no_lie_about_a_packet_is_believed_and_what_is_believed_can_be_cut_and_joined(
            case in cases(), flags: u8, lies in lies(), flips in prop::collection::vec((12..120_usize, any::<u8>()), 0..3),
        ) {
            let mut data = input(&case.with_flags(flags), lies);
            flips.iter().for_each(|&(at, byte)| if let Some(found) = data.get_mut(at) { *found = byte });
            offload(&data);
        }

        #[test]
        fn random_bytes_are_judged(data in prop::collection::vec(any::<u8>(), 0..300)) {
            offload(&data);
        }
    }
}
