//! A client at the far end of a link, and what the gateway has of it.

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use wstether::budget::Part;
use wstether::link::Link;
use wstether::nat::{self, AddressPlan, Filtering, Nat, Timers};
use wstether::overload::Overload;
use wstether::packet::{BufPool, Offload};
use wstether::policy::Policy;
use wstether::runtime::lanes::LaneId;
use wstether::stages::ip_parse::{self, Guard};
use wstether::table::Table;
use wstether::tether::{TICKET_BYTES, Tether};
use wstether::tether_id::TetherId;
use wstether::tether_links::{TetherLinks, Windows};
use wstether::transport::Transport;
use wstether::wire::capsule::{Features, SessionId, datagram_header};
use wstether::wire::frame::{self, Opcode, Role, Subprotocol};
use wstether::wire::proof::CredentialId;

use super::shape::Shape;
use super::{Ends, MESSAGE_BYTES, MESSAGE_BYTES_MAX, PATIENCE, SERVER, SERVER_PORT};

const MTU_BYTES: u16 = 1_500;
/// Far more than is ever on its way, so that no window holds anything back.
const WINDOW_BYTES: u64 = 1 << 40;

/// Where a client's parts at the gateway are found.
pub(super) type Tables<'a> = (&'a Table<Link>, &'a Table<Tether>, &'a Table<TetherLinks>);

/// A client at the far end of a link.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    /// What opens each of its flows, as a message in a masked frame.
    pub(super) opening: Vec<u8>,
    /// Its packets, likewise.
    pub(super) frame: Vec<u8>,
    /// What they are in segments.
    pub(super) message_segments: u64,
    /// Its link's lane at the gateway.
    pub(super) link: LaneId,
    /// The gateway's end of it, which is told at once of what the client has: the window is not what is looked at here.
    pub(super) gateway_end: Arc<Link>,
    pub(super) acked_bytes: u64,
    /// Packets for it from the internet, all flows in turn.
    pub(super) incoming: Vec<Vec<u8>>,
    pub(super) shape: Shape,
}

impl Client {
    /// One with `flows` flows; its tether and its link are put in their places at the gateway.
    pub(super) fn new(
        id: u32,
        flows: u16,
        (shape, ends): (Shape, Ends),
        plan: &Arc<AddressPlan>,
        pool: &BufPool,
        tables: Tables<'_>,
    ) -> Self {
        let lane = LaneId(id);
        let (stream, near) = connected();
        let transport = Transport::new(mio::net::TcpStream::from_std(near), None).expect("a transport");
        let link = Arc::new(Link::new(lane, transport, Role::Server, Instant::now()));
        let windows = Windows { send_bytes_max: WINDOW_BYTES, credit_bytes: Some(WINDOW_BYTES) };
        let owner = Arc::new(TetherLinks::new(lane, windows));
        link.upgraded(Subprotocol::Binary, MESSAGE_BYTES_MAX, &[]);
        link.opened(Arc::clone(&owner), Features::SUPER_PACKETS, MESSAGE_BYTES_MAX, Some(WINDOW_BYTES));
        owner.join(Arc::clone(&link));
        // No acknowledgement of a client's comes this way, so that it stays.
        owner.set_cut_bytes(ends.cut_bytes);
        let tether = tether(TetherId(id), plan, pool, &owner);
        let (links, tethers, tether_links) = tables;
        links.put(lane, Arc::clone(&link));
        tethers.put(lane, Arc::new(tether));
        tether_links.put(lane, owner);
        let IpAddr::V4(lease) = plan.lease(TetherId(id)).expect("a lease") else { panic!("an IPv4 plan") };
        let source = |at: usize| (lease, 10_000 + at as u16 % flows);
        let opening = (0..flows.into()).map(|at| shape.opening(source(at), (SERVER, SERVER_PORT)));
        let packets = (0..packets_a_message(shape)).map(|at| shape.packet(source(at), (SERVER, SERVER_PORT)));
        let checksum = shape.offload().checksum;
        Self {
            opening: message(opening, Offload { checksum, ..Offload::default() }),
            frame: message(packets, shape.offload()),
            message_segments: packets_a_message(shape) as u64 * shape.segments(),
            stream,
            link: lane,
            gateway_end: link,
            acked_bytes: 0,
            incoming: Vec::new(),
            shape,
        }
    }

    pub(super) fn write(&self, bytes: impl FnOnce(&Self) -> &[u8]) {
        let mut rest = bytes(self);
        let end = Instant::now() + PATIENCE;
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => assert!(Instant::now() < end, "no room"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn packets_a_message(shape: Shape) -> usize {
    let bytes = shape.packet((SERVER, 1), (SERVER, 1)).len();
    (MESSAGE_BYTES / (bytes + datagram_header(bytes, shape.offload()).len())).max(1)
}

fn tether(id: TetherId, plan: &Arc<AddressPlan>, pool: &BufPool, links: &Arc<TetherLinks>) -> Tether {
    let guard_rules = ip_parse::Rules {
        plan: Arc::clone(plan),
        policy: Arc::new(Policy::new(vec![], vec![], vec![])),
        mtu_bytes: MTU_BYTES.into(),
        pool: pool.clone(),
    };
    let nat_rules = nat::Rules {
        plan: Arc::clone(plan),
        timers: Timers::default(),
        filtering: Filtering::EndpointIndependent,
        resolver: None,
        mtu_bytes: MTU_BYTES,
        mappings_max: 1_024,
        mappings_per_second: 1_024,
        remotes_max: 16,
        overload: Overload::default(),
        pool: pool.clone(),
    };
    let guard = Guard::new(id, Arc::new(guard_rules)).expect("a lease");
    let nat = Nat::new(id, Arc::new(nat_rules), 1).expect("a lease");
    let name = (SessionId([0; 16]), [0; TICKET_BYTES]);
    let credential = CredentialId::random().expect("random bytes");
    let memory = pool.budget().share(Part::Tethers);
    Tether::new(id, name, credential, Arc::clone(links), (guard, nat), memory, Instant::now())
}

/// A message of these packets, masked as a client's are.
fn message(packets: impl Iterator<Item = Vec<u8>>, offload: Offload) -> Vec<u8> {
    let mut message = Vec::new();
    for packet in packets {
        message.extend_from_slice(&datagram_header(packet.len(), offload));
        message.extend_from_slice(&packet);
    }
    let mut out = Vec::new();
    frame::append(Opcode::Binary, &message, Some([1, 2, 3, 4]), &mut out);
    out
}

fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (near, _) = listener.accept().expect("a connection");
    for stream in [&far, &near] {
        stream.set_nonblocking(true).expect("non-blocking");
        stream.set_nodelay(true).expect("no delay");
    }
    (far, near)
}
