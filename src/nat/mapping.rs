//! One mapping: an inside port and the remotes it sent to.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::budget::Share;
use crate::stages::ip_parse::{TcpFlags, Transport};

/// Which packets from the internet pass a mapping (RFC 4787 REQ-8, RFC 5382 REQ-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// From everybody: the most transparent for peer-to-peer programs.
    EndpointIndependent,
    /// From addresses that the mapping has sent to.
    #[default]
    AddressDependent,
    /// From addresses and ports that the mapping has sent to.
    AddressAndPortDependent,
}

/// How long what is idle lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// UDP, since the last packet from inside (RFC 4787 REQ-5 and REQ-6).
    pub udp: Duration,
    /// UDP to port 53 (RFC 4787 REQ-5a), so that name resolution does not use up the ports.
    pub udp_dns: Duration,
    /// TCP while it opens (RFC 5382 REQ-5).
    pub tcp_opening: Duration,
    /// TCP once both sides have sent a SYN (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP after a FIN from both sides or a RST (RFC 7857, 2.1 and 2.2).
    pub tcp_closing: Duration,
    /// ICMP queries, since the last packet from inside (RFC 5508 REQ-2).
    pub query: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            udp: Duration::from_secs(300),
            udp_dns: Duration::from_secs(10),
            tcp_opening: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7_440),
            tcp_closing: Duration::from_secs(240),
            query: Duration::from_secs(60),
        }
    }
}

/// The timer that runs for a mapping or a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimerClass {
    Udp,
    UdpDns,
    TcpOpening,
    TcpEstablished,
    TcpClosing,
    Query,
}

impl TimerClass {
    pub(super) const COUNT: usize = 6;
}

impl Timers {
    pub(super) fn of(&self, class: TimerClass) -> Duration {
        match class {
            TimerClass::Udp => self.udp,
            TimerClass::UdpDns => self.udp_dns,
            TimerClass::TcpOpening => self.tcp_opening,
            TimerClass::TcpEstablished => self.tcp_established,
            TimerClass::TcpClosing => self.tcp_closing,
            TimerClass::Query => self.query,
        }
    }
}

/// How mappings of one gateway behave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    pub(super) timers: Timers,
    pub(super) filtering: Filtering,
    pub(super) remotes_max: usize,
}

/// What a mapping is found by from inside: endpoint-independent (RFC 4787 REQ-1), so that no remote is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) transport: Transport,
    pub(super) port: u16,
    /// Sent to the gateway's inner address for the resolver: apart from what the same port sends elsewhere.
    pub(super) dns: bool,
}

/// The other end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// Where a TCP connection is (RFC 7857, figure 1, without its sub-states): what has been seen from either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tcp(u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Inside,
    Outside,
}

impl Tcp {
    const INSIDE_SYN: u8 = 1;
    const OUTSIDE_SYN: u8 = 2;
    const INSIDE_FIN: u8 = 4;
    const OUTSIDE_FIN: u8 = 8;
    const RST: u8 = 16;
    const BOTH_SYN: u8 = Self::INSIDE_SYN | Self::OUTSIDE_SYN;
    const BOTH_FIN: u8 = Self::INSIDE_FIN | Self::OUTSIDE_FIN;

    fn class(self) -> TimerClass {
        if self.0 & Self::RST != 0 || self.0 & Self::BOTH_FIN == Self::BOTH_FIN {
            TimerClass::TcpClosing
        } else if self.0 & Self::BOTH_SYN == Self::BOTH_SYN {
            TimerClass::TcpEstablished
        } else {
            TimerClass::TcpOpening
        }
    }

    fn after(self, flags: TcpFlags, from: From) -> Self {
        let (syn, fin) = match from {
            From::Inside => (Self::INSIDE_SYN, Self::INSIDE_FIN),
            From::Outside => (Self::OUTSIDE_SYN, Self::OUTSIDE_FIN),
        };
        if flags.rst() {
            return Self(self.0 | Self::RST);
        }
        if flags.syn() && self.class() == TimerClass::TcpClosing {
            // The ports are used again for a new connection.
            return Self(syn);
        }
        // A segment after a RST shows that the RST was not believed (RFC 7857, 2.2).
        let seen = self.0 & !Self::RST;
        Self(seen | if flags.syn() { syn } else { 0 } | if flags.fin() { fin } else { 0 })
    }
}

/// A filter entry, and for TCP a session.
#[derive(Clone, Copy, Debug)]
struct Remote {
    peer: Peer,
    tcp: Tcp,
    deadline: Instant,
}

/// Memory of one remote.
pub(super) const REMOTE_BYTES: u64 = size_of::<Remote>() as u64;

/// A live mapping. Its place in the table's lists is the table's.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) key: Key,
    /// Offset of the external port in the tether's block; 0 where the gateway does not translate.
    pub(super) offset: u16,
    pub(super) class: TimerClass,
    /// When it ends: the latest deadline of its remotes.
    pub(super) deadline: Instant,
    remotes: Vec<Remote>,
}

impl Mapping {
    pub(super) fn new(key: Key, offset: u16, now: Instant) -> Self {
        let class = match key.transport {
            Transport::Tcp => TimerClass::TcpOpening,
            Transport::Udp => TimerClass::Udp,
            Transport::Query => TimerClass::Query,
        };
        Self { key, offset, class, deadline: now, remotes: Vec::new() }
    }

    /// A packet from inside went to `peer`.
    pub(super) fn sent(
        &mut self,
        peer: Peer,
        flags: Option<TcpFlags>,
        behaviour: &Behaviour,
        memory: &mut Share,
        now: Instant,
    ) {
        match self.remotes.iter().position(|remote| self.is_same(remote.peer, peer, behaviour.filtering)) {
            Some(at) => self.refresh(at, peer, flags, From::Inside, behaviour, now),
            None => {
                // Without a SYN it is a connection whose entry gave way to others, and it was established.
                let tcp = flags.map_or(Tcp::default(), |flags| match flags.syn() {
                    true => Tcp::default().after(flags, From::Inside),
                    false => Tcp(Tcp::BOTH_SYN).after(flags, From::Inside),
                });
                self.remember(Remote { peer, tcp, deadline: now }, behaviour, memory, now);
            }
        }
    }

    /// A packet came from `peer`: whether it passes. Inbound packets refresh TCP sessions alone (RFC 4787 REQ-6).
    pub(super) fn received(
        &mut self,
        peer: Peer,
        flags: Option<TcpFlags>,
        behaviour: &Behaviour,
        memory: &mut Share,
        now: Instant,
    ) -> bool {
        if !self.permits(peer, behaviour.filtering, now) {
            return false;
        }
        if let Some(flags) = flags {
            match self.remotes.iter().position(|remote| remote.peer == peer) {
                Some(at) => self.refresh(at, peer, Some(flags), From::Outside, behaviour, now),
                None if flags.syn() => {
                    let tcp = Tcp::default().after(flags, From::Outside);
                    self.remember(Remote { peer, tcp, deadline: now }, behaviour, memory, now);
                }
                None => {}
            }
        }
        true
    }

    /// Whether what comes from `peer` passes the filter.
    pub(super) fn permits(&self, peer: Peer, filtering: Filtering, now: Instant) -> bool {
        let mut live = self.remotes.iter().filter(|remote| remote.deadline > now);
        match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => live.any(|remote| remote.peer.address == peer.address),
            Filtering::AddressAndPortDependent => live.any(|remote| remote.peer == peer),
        }
    }

    /// Whether two peers share an entry: a TCP session is one with a port, other entries are as fine as the filter.
    fn is_same(&self, known: Peer, peer: Peer, filtering: Filtering) -> bool {
        let by_port = self.key.transport == Transport::Tcp || filtering == Filtering::AddressAndPortDependent;
        known.address == peer.address && (!by_port || known.port == peer.port)
    }

    fn refresh(
        &mut self,
        at: usize,
        peer: Peer,
        flags: Option<TcpFlags>,
        from: From,
        behaviour: &Behaviour,
        now: Instant,
    ) {
        let remote = self.remotes[at];
        let tcp = flags.map_or(remote.tcp, |flags| remote.tcp.after(flags, from));
        let class = self.class_of(peer, tcp);
        let restarts = match class {
            TimerClass::TcpClosing => remote.tcp.class() != class,
            TimerClass::TcpOpening => remote.tcp.class() != class || from == From::Inside,
            TimerClass::TcpEstablished | TimerClass::Udp | TimerClass::UdpDns | TimerClass::Query => true,
        };
        let deadline = if restarts { now + behaviour.timers.of(class) } else { remote.deadline };
        self.remotes[at] = Remote { peer, tcp, deadline };
        if deadline >= self.deadline {
            (self.class, self.deadline) = (class, deadline);
        } else if remote.deadline >= self.deadline {
            self.settle();
        }
    }

    /// Keeps a new entry. At the limit, or without memory for one more, the one that would end first gives way: an entry is never worth more than a newer
    /// one that lives longer, the mapping itself stays, and the next packet from inside brings the entry back.
    fn remember(&mut self, remote: Remote, behaviour: &Behaviour, memory: &mut Share, now: Instant) {
        let class = self.class_of(remote.peer, remote.tcp);
        let remote = Remote { deadline: now + behaviour.timers.of(class), ..remote };
        if self.remotes.len() < behaviour.remotes_max.max(1) && self.make_room(memory) {
            self.remotes.push(remote);
        } else if let Some(first) = self.remotes.iter_mut().min_by_key(|remote| remote.deadline) {
            *first = remote;
        }
        if remote.deadline >= self.deadline {
            (self.class, self.deadline) = (class, remote.deadline);
        }
    }

    /// Makes room for one more remote; `false` where there is no memory for it. The first is on the books with the
    /// mapping's place: most mappings have no other.
    fn make_room(&mut self, memory: &mut Share) -> bool {
        let room = self.remotes.capacity();
        if self.remotes.len() < room {
            return true;
        }
        let has_memory = room == 0 || memory.grow(room as u64 * REMOTE_BYTES);
        if has_memory {
            self.remotes.reserve_exact(room.max(1));
        }
        has_memory
    }

    /// Memory of its remotes beyond the first.
    pub(super) fn more_remotes_bytes(&self) -> u64 {
        self.remotes.capacity().saturating_sub(1) as u64 * REMOTE_BYTES
    }

    /// Finds the latest deadline again after it moved nearer.
    fn settle(&mut self) {
        if let Some(&last) = self.remotes.iter().max_by_key(|remote| remote.deadline) {
            (self.class, self.deadline) = (self.class_of(last.peer, last.tcp), last.deadline);
        }
    }

    fn class_of(&self, peer: Peer, tcp: Tcp) -> TimerClass {
        match self.key.transport {
            Transport::Tcp => tcp.class(),
            Transport::Udp if peer.port == crate::stages::ip_parse::DNS_PORT => TimerClass::UdpDns,
            Transport::Udp => TimerClass::Udp,
            Transport::Query => TimerClass::Query,
        }
    }
}
