//! A tether's mappings: found by inside key and by external port, and ended without scans.
//!
//! Every timer class has a list of its mappings, the longest idle first. As a class has one timeout, that order is the
//! order of deadlines, and a packet moves its mapping to the end. A mapping whose deadline moves nearer, because the one
//! remote closes that held it, goes back to its place among the others.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::mapping::{Behaviour, Key, Mapping, Peer, REMOTE_BYTES, TimerClass};
use crate::budget::Share;
use crate::random::Random;
use crate::stages::ip_parse::{TcpFlags, Transport};

/// No slot.
const NONE: u32 = u32::MAX;

/// A mapping moves in its list once its deadline is later by this much: a packet then touches no neighbour, and a list
/// is out of order by no more.
const MOVE_AFTER: Duration = Duration::from_secs(1);

/// A mapping's place in the table, good until the mapping ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// Why there is no room for another mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Every port of the block is taken.
    Ports,
    /// The memory budget is used up.
    Memory,
}

/// What a place for a mapping costs, with its entry in the free list, its first remote, and its part of the look-up by
/// key: that has a byte more an entry, has room for 8/7 as many, rounded up to a power of two.
const PLACE_BYTES: u64 =
    (size_of::<Option<Node>>() + size_of::<u32>()) as u64 + REMOTE_BYTES + 3 * (size_of::<(Key, u32)>() + 1) as u64;

/// Places that a table begins with.
const PLACES_MIN: usize = 4;

#[derive(Debug)]
struct Node {
    mapping: Mapping,
    /// The list that it is in, and the deadline that it had when it came to its place there: no later than it is now. A list
    /// is in the order of these.
    class: TimerClass,
    listed: Instant,
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };

/// The mappings of one tether. Empty it holds no memory beyond itself.
#[derive(Debug)]
pub(super) struct Table {
    nodes: Vec<Option<Node>>,
    free: Vec<u32>,
    lists: [List; TimerClass::COUNT],
    by_inside: HashMap<Key, u32>,
    by_port: [Box<[u32]>; Transport::COUNT],
    used: [u16; Transport::COUNT],
    mapped: [u32; Transport::COUNT],
    /// What the table holds of the memory budget.
    memory: Share,
}

impl Table {
    /// An empty table, which draws its memory through `memory`.
    pub(super) fn new(memory: Share) -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            lists: [EMPTY; TimerClass::COUNT],
            by_inside: HashMap::new(),
            by_port: Default::default(),
            used: [0; Transport::COUNT],
            mapped: [0; Transport::COUNT],
            memory,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_inside.len()
    }

    /// Mappings by transport.
    pub(super) fn mappings(&self) -> [u64; Transport::COUNT] {
        self.mapped.map(u64::from)
    }

    /// External ports in use by transport.
    pub(super) fn ports(&self) -> [u64; Transport::COUNT] {
        self.used.map(u64::from)
    }

    pub(super) fn mapping(&self, slot: Slot) -> Option<&Mapping> {
        Some(&self.node(slot.0)?.mapping)
    }

    /// The live mapping of an inside key. One whose time is over ends here.
    pub(super) fn by_inside(&mut self, key: Key, now: Instant) -> Option<Slot> {
        let slot = *self.by_inside.get(&key)?;
        self.live(slot, now)
    }

    /// The live mapping of the external port at `offset` of the block.
    pub(super) fn by_port(&mut self, transport: Transport, offset: u16, now: Instant) -> Option<Slot> {
        let slot = *self.by_port[transport as usize].get(usize::from(offset))?;
        self.live(slot, now)
    }

    /// Makes the mapping of `key`, which has none, on a free port of the block, chosen at random (RFC 7857 REQ-9, RFC
    /// 6056 3.3.1). Without a block (0 ports) it has no external port.
    pub(super) fn create(
        &mut self,
        key: Key,
        block_ports: u16,
        random: &mut Random,
        now: Instant,
    ) -> Result<Slot, Full> {
        let offset = if block_ports == 0 { 0 } else { self.free_port(key.transport, block_ports, random, now)? };
        if let Err(full) = self.make_place() {
            self.forget_when_empty();
            return Err(full);
        }
        let slot = self.insert(Mapping::new(key, offset, now));
        self.by_inside.insert(key, slot);
        self.mapped[key.transport as usize] += 1;
        if block_ports != 0 {
            self.by_port[key.transport as usize][usize::from(offset)] = slot;
            self.used[key.transport as usize] += 1;
        }
        Ok(Slot(slot))
    }

    /// A packet from inside.
    pub(super) fn sent(
        &mut self,
        slot: Slot,
        peer: Peer,
        flags: Option<TcpFlags>,
        behaviour: &Behaviour,
        now: Instant,
    ) {
        if let Some(Some(node)) = self.nodes.get_mut(slot.0 as usize) {
            node.mapping.sent(peer, flags, behaviour, &mut self.memory, now);
            self.relist(slot.0);
        }
    }

    /// A packet from the internet: whether it passes.
    pub(super) fn received(
        &mut self,
        slot: Slot,
        peer: Peer,
        flags: Option<TcpFlags>,
        behaviour: &Behaviour,
        now: Instant,
    ) -> bool {
        let Some(Some(node)) = self.nodes.get_mut(slot.0 as usize) else { return false };
        let passes = node.mapping.received(peer, flags, behaviour, &mut self.memory, now);
        self.relist(slot.0);
        passes
    }

    /// Ends up to `budget` mappings whose time is over, and returns how many.
    pub(super) fn expire(&mut self, now: Instant, budget: usize) -> usize {
        let mut ended = 0;
        for class in 0..TimerClass::COUNT {
            while ended < budget {
                let first = self.lists[class].first;
                if self.node(first).is_none_or(|node| node.mapping.deadline > now) {
                    break;
                }
                self.remove(first);
                ended += 1;
            }
        }
        ended
    }

    /// When the next mapping ends, as far as the lists know: never too late by more than [`MOVE_AFTER`].
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lists.iter().filter_map(|list| Some(self.node(list.first)?.mapping.deadline)).min()
    }

    fn live(&mut self, slot: u32, now: Instant) -> Option<Slot> {
        if self.node(slot)?.mapping.deadline > now {
            return Some(Slot(slot));
        }
        self.remove(slot);
        None
    }

    fn free_port(
        &mut self,
        transport: Transport,
        block_ports: u16,
        random: &mut Random,
        now: Instant,
    ) -> Result<u16, Full> {
        let space = transport as usize;
        if self.used[space] == block_ports && self.expire(now, usize::from(block_ports)) == 0 {
            return Err(Full::Ports);
        }
        // What has ended may have been the last mapping, and the ports' table with it.
        if self.by_port[space].is_empty() {
            if !self.memory.grow(u64::from(block_ports) * size_of::<u32>() as u64) {
                return Err(Full::Memory);
            }
            self.by_port[space] = vec![NONE; block_ports.into()].into_boxed_slice();
        }
        let ports = &self.by_port[space];
        let start = random.below(block_ports.into()) as usize;
        let offset = (start..ports.len()).chain(0..start).find(|&offset| ports[offset] == NONE);
        offset.and_then(|offset| u16::try_from(offset).ok()).ok_or(Full::Ports)
    }

    /// Makes room for one more mapping, twice as much as there is when there is none.
    fn make_place(&mut self) -> Result<(), Full> {
        if !self.free.is_empty() || self.nodes.len() < self.nodes.capacity() {
            return Ok(());
        }
        let places = self.nodes.capacity().max(PLACES_MIN);
        if !self.memory.grow(places as u64 * PLACE_BYTES) {
            return Err(Full::Memory);
        }
        self.nodes.reserve_exact(places);
        self.free.reserve_exact(self.nodes.capacity());
        self.by_inside.reserve(places);
        Ok(())
    }

    fn node(&self, slot: u32) -> Option<&Node> {
        self.nodes.get(slot as usize)?.as_ref()
    }

    fn node_mut(&mut self, slot: u32) -> Option<&mut Node> {
        self.nodes.get_mut(slot as usize)?.as_mut()
    }

    fn insert(&mut self, mapping: Mapping) -> u32 {
        let (class, listed) = (mapping.class, mapping.deadline);
        let node = Some(Node { mapping, class, listed, before: NONE, after: NONE });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.link(slot, self.lists[class as usize].last);
        slot
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        let Some(node) = self.nodes.get_mut(slot as usize).and_then(Option::take) else { return };
        let Key { transport, .. } = node.mapping.key;
        self.by_inside.remove(&node.mapping.key);
        self.mapped[transport as usize] -= 1;
        if let Some(port) = self.by_port[transport as usize].get_mut(usize::from(node.mapping.offset)) {
            *port = NONE;
            self.used[transport as usize] -= 1;
        }
        self.free.push(slot);
        self.memory.shrink(node.mapping.more_remotes_bytes());
        self.forget_when_empty();
    }

    /// An idle tether gives its memory back.
    fn forget_when_empty(&mut self) {
        if self.by_inside.is_empty() {
            (self.nodes, self.free, self.by_inside) = Default::default();
            (self.lists, self.by_port) = ([EMPTY; TimerClass::COUNT], Default::default());
            self.memory.clear();
        }
    }

    /// Puts a mapping where its timer now has it.
    fn relist(&mut self, slot: u32) {
        let Some(node) = self.node(slot) else { return };
        let Mapping { class, deadline, .. } = node.mapping;
        if node.class == class && deadline >= node.listed && deadline < node.listed + MOVE_AFTER {
            return;
        }
        self.unlink(slot);
        if let Some(node) = self.node_mut(slot) {
            (node.class, node.listed) = (class, deadline);
        }
        self.link(slot, self.last_before(class, deadline));
    }

    /// Behind whom a mapping with this deadline belongs. A timer that has just started ends last, so that is the end of the
    /// list. Only a mapping whose latest deadline is another remote's again passes others, at most as many as the tether has,
    /// and to do so anew it has to be brought to the end before.
    fn last_before(&self, class: TimerClass, deadline: Instant) -> u32 {
        let mut before = self.lists[class as usize].last;
        while let Some(node) = self.node(before).filter(|node| node.listed > deadline) {
            before = node.before;
        }
        before
    }

    /// Puts a mapping into its list behind `before`, or in front of all others.
    fn link(&mut self, slot: u32, before: u32) {
        let Some(class) = self.node(slot).map(|node| node.class as usize) else { return };
        let after = match self.node_mut(before) {
            Some(node) => std::mem::replace(&mut node.after, slot),
            None => std::mem::replace(&mut self.lists[class].first, slot),
        };
        match self.node_mut(after) {
            Some(node) => node.before = slot,
            None => self.lists[class].last = slot,
        }
        if let Some(node) = self.node_mut(slot) {
            (node.before, node.after) = (before, after);
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Some((class, before, after)) = self.node(slot).map(|node| (node.class as usize, node.before, node.after))
        else {
            return;
        };
        match self.node_mut(before) {
            Some(node) => node.after = after,
            None => self.lists[class].first = after,
        }
        match self.node_mut(after) {
            Some(node) => node.before = before,
            None => self.lists[class].last = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapping::{Filtering, Timers};
    use super::*;
    use crate::budget::{Budget, Part};

    /// What a mapping may cost, in bytes, with its places in the look-ups; the lists and its first remote are in it.
    const MAPPING_BYTES_MAX: usize = 160;

    #[test]
    fn a_mapping_stays_within_its_memory_and_an_idle_table_has_none() {
        let look_ups = 2 * (size_of::<Key>() + size_of::<u32>() + 1) + size_of::<u32>();
        assert!(size_of::<Option<Node>>() + look_ups <= MAPPING_BYTES_MAX, "{} bytes", size_of::<Option<Node>>());
        let (budget, now) = (Budget::undivided(4_096), Instant::now());
        let mut table = Table::new(budget.share(Part::Mappings));
        assert_eq!((table.nodes.capacity(), table.by_inside.capacity(), table.next_deadline()), (0, 0, None));
        table.create(key(1), 100, &mut Random::new(1), now).expect("a free port");
        assert_eq!(budget.held_bytes(), 100 * 4 + PLACES_MIN as u64 * PLACE_BYTES);
        assert_eq!(table.expire(now, 1), 1);
        assert_eq!((table.nodes.capacity(), table.by_inside.capacity(), table.by_port[1].len()), (0, 0, 0));
        assert_eq!(budget.held_bytes(), 0);
    }

    #[test]
    fn what_a_table_holds_is_on_the_books_and_without_memory_live_mappings_stay() {
        let (budget, now) = (Budget::undivided(100_000), Instant::now());
        let mut table = Table::new(budget.share(Part::Mappings));
        let mut random = Random::new(1);
        let made = (1..).take_while(|&port| table.create(key(port), 1_000, &mut random, now).is_ok()).count();
        assert_eq!(table.create(key(9_999), 1_000, &mut random, now), Err(Full::Memory));
        let held = table.nodes.capacity() * size_of::<Option<Node>>()
            + table.free.capacity() * size_of::<u32>()
            + table.by_inside.allocation_size()
            + table.by_port[1].len() * size_of::<u32>();
        assert!(held as u64 + made as u64 * REMOTE_BYTES <= budget.held_bytes(), "{held} of {budget:?}");
        assert_eq!((table.len(), table.by_inside(key(9_999), now)), (made, None));
        assert_eq!(table.expire(now, made), made);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[test]
    fn without_memory_a_mapping_remembers_its_newest_remotes() {
        let (budget, now) = (Budget::undivided(PLACES_MIN as u64 * PLACE_BYTES + REMOTE_BYTES), Instant::now());
        let behaviour = Behaviour { timers: Timers::default(), filtering: Filtering::default(), remotes_max: 64 };
        let mut table = Table::new(budget.share(Part::Mappings));
        let slot = table.create(key(1), 0, &mut Random::new(1), now).expect("room");
        let peer = |last: u8| Peer { address: [192, 0, 2, last].into(), port: 443 };
        for last in 1..=3 {
            table.sent(slot, peer(last), None, &behaviour, now + Duration::from_secs(last.into()));
        }
        let passes = [1, 2, 3].map(|last| table.received(slot, peer(last), None, &behaviour, now));
        assert_eq!(passes, [false, true, true], "there was memory for two");
        table.expire(now + Duration::from_secs(1_000), 1);
        assert_eq!(budget.held_bytes(), 0);
    }

    fn key(port: u16) -> Key {
        Key { transport: Transport::Udp, port, dns: false }
    }
}
