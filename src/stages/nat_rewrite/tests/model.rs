use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Flow {
    kind: u8,
    port: u16,
    remote: [u8; 4],
    remote_port: u16,
    payload: Vec<u8>,
    is_partial: bool,
}

fn flow() -> impl Strategy<Value = Flow> {
    let ends = (0..3_u8, any::<u16>(), prop::array::uniform4(1..224_u8), any::<u16>());
    (ends, prop::collection::vec(any::<u8>(), 0..64), any::<bool>()).prop_map(
        |((kind, port, remote, remote_port), payload, is_partial)| Flow {
            kind,
            port,
            remote,
            remote_port,
            payload,
            is_partial,
        },
    )
}

impl Flow {
    fn build(&self, inside: IpAddr, port: u16, outgoing: bool) -> Builder {
        let (inside_end, remote) = (format!("{inside}:{port}"), Ipv4Addr::from(self.remote).to_string());
        let remote_end = format!("{remote}:{}", self.remote_port);
        let (from, to) = if outgoing { (inside_end, remote_end) } else { (remote_end, inside_end) };
        match (self.kind, outgoing) {
            (0, _) => udp(&from, &to, &self.payload),
            (1, _) => tcp_with(&from, &to, if outgoing { SYN } else { SYN_ACK }, &[], &self.payload),
            (_, true) => query(&inside.to_string(), &remote, 8, port),
            (_, false) => query(&remote, &inside.to_string(), 0, port),
        }
    }

    fn packet(&self, builder: &Builder) -> Packet<Raw> {
        if self.is_partial && self.kind < 2 { builder.partial() } else { builder.packet() }
    }
}

proptest! {
    #[test]
    fn what_goes_out_comes_back_as_it_was_with_right_checksums_and_no_port_is_shared(flows in prop::collection::vec(flow(), 1..60)) {
        let mut world = world();
        let mut external = std::collections::HashMap::new();
        for flow in &flows {
            let sent = forwarded(world.send(flow.packet(&flow.build(ip(LEASE).into(), flow.port, true))));
            assert_checksums(&sent);
            let seen = reparsed(&sent);
            let known = external.entry((flow.kind, seen.source_port)).or_insert(flow.port);
            prop_assert_eq!(*known, flow.port, "two inside ports share an external one");
            let came = forwarded(world.come(flow.packet(&flow.build(seen.source, seen.source_port, false))));
            assert_checksums(&came);
            let expected = flow.packet(&flow.build(ip(LEASE).into(), flow.port, false));
            prop_assert_eq!(came.bytes(), expected.bytes());
        }
    }

    #[test]
    fn whatever_parses_is_judged_without_a_panic_and_leaves_with_a_right_header(
        kinds in prop::collection::vec((any::<bool>(), 0..4_u8, prop::sample::select(vec![1_u8, 6, 17, 47]), prop::collection::vec(any::<u8>(), 8..90)), 1..20),
        translates in any::<bool>(),
    ) {
        let mut world = if translates { world() } else { untranslated() };
        for (out, icmp_kind, protocol, mut payload) in kinds {
            if protocol == 1 {
                payload[0] = [0, 8, 3, 11][usize::from(icmp_kind)];
            }
            let (from, to) = if out { (LEASE, "192.0.2.80") } else { ("192.0.2.80", EXTERNAL) };
            let Ok(packet) = ip_parse::parse(other(from, to, protocol, &payload).packet()) else { continue };
            prop_assert_eq!(packet.offload().checksum, Checksum::Complete);
            let now = world.now;
            let nat = &mut world.nats[0];
            let verdict = if out { outgoing(nat, packet, now) } else { incoming(nat, packet, now) };
            if let Verdict::Forward(packet) = verdict {
                prop_assert!(crate::checksum::is_valid(&packet.bytes()[..20]));
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Send { port: u16 },
    Come { port: u16 },
    Wait { seconds: u64 },
    Expire { budget: usize },
}

fn step() -> impl Strategy<Value = Step> {
    // More ports than the block has, so that the limit is met too.
    let port = 1..BLOCK_PORTS + 20;
    prop_oneof![
        8 => port.clone().prop_map(|port| Step::Send { port }),
        4 => port.prop_map(|port| Step::Come { port }),
        2 => (0..120_u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0..20_usize).prop_map(|budget| Step::Expire { budget }),
    ]
}

/// What the RFCs say of UDP, said plainly: an inside port has an external one until 300 s after it last sent.
#[derive(Default)]
struct Model(std::collections::BTreeMap<u16, (String, Instant)>);

impl Model {
    fn live(&self, port: u16, now: Instant) -> Option<&str> {
        self.0
            .get(&port)
            .filter(|(_, sent)| now < *sent + Duration::from_secs(300))
            .map(|(external, _)| external.as_str())
    }

    fn live_count(&self, now: Instant) -> usize {
        self.0.keys().filter(|&&port| self.live(port, now).is_some()).count()
    }
}

proptest! {
    // Long runs, so fewer of them.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_packets_and_time_leave_the_nat_and_a_plain_model_of_it_agreed(steps in prop::collection::vec(step(), 1..600)) {
        let (mut world, mut model) = (world(), Model::default());
        for step in steps {
            let now = world.now;
            match step {
                Step::Send { port } => match world.send(question(port).packet()) {
                    Verdict::Forward(sent) => {
                        let external = external_end(&sent);
                        if let Some(known) = model.live(port, now) {
                            prop_assert_eq!(known, &external, "endpoint-independent");
                        }
                        let is_shared = model.0.keys().any(|&other| other != port && model.live(other, now) == Some(&external));
                        prop_assert!(!is_shared, "two live mappings share {}", external);
                        model.0.insert(port, (external, now));
                    }
                    Verdict::Reply(reason, _) | Verdict::Drop(reason) => {
                        prop_assert_eq!(reason, Reason::PortLimit);
                        prop_assert_eq!(model.live(port, now), None, "a live mapping is never refused");
                        prop_assert!(model.live_count(now) == usize::from(BLOCK_PORTS), "refused below the limit");
                    }
                    Verdict::Turn(_) => prop_assert!(false, "turned round"),
                },
                Step::Come { port } => {
                    if let Some((external, _)) = model.0.get(&port).cloned() {
                        let holder = model.0.keys().copied().find(|&port| model.live(port, now) == Some(&external));
                        match (world.come(udp("192.0.2.80:443", &external, b"answer").packet()), holder) {
                            (Verdict::Forward(came), Some(port)) => prop_assert_eq!(came.proof().inside().destination_port, port),
                            (Verdict::Drop(reason), None) => prop_assert_eq!(reason, Reason::NoMapping),
                            (verdict, holder) => prop_assert!(false, "{:?} with {:?}", verdict, holder),
                        }
                    }
                }
                Step::Wait { seconds } => world.wait(seconds),
                Step::Expire { budget } => prop_assert!(world.nats[0].expire(now, budget) <= budget),
            }
        }
        world.wait(302);
        world.nats[0].expire(world.now, usize::MAX);
        prop_assert_eq!(world.nats[0].mappings(), 0);
    }
}

/// What may happen to one of a few inside ports and one of its two remotes.
#[derive(Clone, Copy, Debug)]
enum TcpStep {
    /// Both sides say SYN.
    Open {
        port: u16,
        remote: usize,
    },
    /// Data from inside.
    Send {
        port: u16,
        remote: usize,
    },
    /// A RST from inside.
    Reset {
        port: u16,
        remote: usize,
    },
    Wait {
        seconds: u64,
    },
}

const REMOTES: [&str; 2] = ["192.0.2.80:443", "192.0.2.81:443"];

fn tcp_step() -> impl Strategy<Value = TcpStep> {
    let end = || (1..8_u16, 0..REMOTES.len());
    prop_oneof![
        3 => end().prop_map(|(port, remote)| TcpStep::Open { port, remote }),
        2 => end().prop_map(|(port, remote)| TcpStep::Send { port, remote }),
        3 => end().prop_map(|(port, remote)| TcpStep::Reset { port, remote }),
        // Some of the time that connections have, closed or not.
        4 => prop_oneof![0..120_u64, 0..4_000_u64].prop_map(|seconds| TcpStep::Wait { seconds }),
    ]
}

/// What the RFCs say of TCP, said plainly: a port is mapped until the last of its connections is over, 7440 s after its last
/// packet or 240 s after its RST.
#[derive(Default)]
struct TcpModel(std::collections::BTreeMap<u16, [Option<Connection>; REMOTES.len()]>);

#[derive(Clone, Copy)]
struct Connection {
    is_reset: bool,
    ends: Instant,
}

impl TcpModel {
    fn live_count(&self, now: Instant) -> usize {
        self.0.keys().filter(|&&port| self.is_live(port, now)).count()
    }

    fn is_live(&self, port: u16, now: Instant) -> bool {
        self.0.get(&port).is_some_and(|ends| ends.iter().flatten().any(|connection| connection.ends > now))
    }

    fn lives_on(&mut self, port: u16, remote: usize, now: Instant) {
        let ends = now + Duration::from_secs(7_440);
        self.0.entry(port).or_default()[remote] = Some(Connection { is_reset: false, ends });
    }

    fn is_reset(&mut self, port: u16, remote: usize, now: Instant) {
        let connection = &mut self.0.entry(port).or_default()[remote];
        if !connection.is_some_and(|connection| connection.is_reset) {
            *connection = Some(Connection { is_reset: true, ends: now + Duration::from_secs(240) });
        }
    }
}

proptest! {
    #[test]
    fn connections_that_close_and_live_on_beside_each_other_leave_no_mapping_longer_than_the_last_of_them(
        steps in prop::collection::vec(tcp_step(), 1..60),
    ) {
        // A list may be out of order by this much.
        let slack = Duration::from_secs(1);
        let (mut world, mut model) = (world(), TcpModel::default());
        for step in steps {
            let now = world.now;
            model.0.retain(|_, connections| connections.iter().flatten().any(|connection| connection.ends > now));
            let mut send = |port: u16, remote: usize, flags| {
                world.send(tcp(&format!("{LEASE}:{port}"), REMOTES[remote], flags).packet())
            };
            match step {
                TcpStep::Open { port, remote } => {
                    let external = external_end(&forwarded(send(port, remote, SYN)));
                    world.came(&tcp(REMOTES[remote], &external, SYN_ACK));
                    model.lives_on(port, remote, now);
                }
                TcpStep::Send { port, remote } => {
                    let was_sent = matches!(send(port, remote, ACK), Verdict::Forward(_));
                    prop_assert_eq!(was_sent, model.is_live(port, now));
                    if was_sent {
                        model.lives_on(port, remote, now);
                    }
                }
                TcpStep::Reset { port, remote } => {
                    let was_sent = matches!(send(port, remote, RST), Verdict::Forward(_));
                    prop_assert_eq!(was_sent, model.is_live(port, now));
                    if was_sent {
                        model.is_reset(port, remote, now);
                    }
                }
                TcpStep::Wait { seconds } => world.wait(seconds),
            }
            let now = world.now;
            world.nats[0].expire(now, usize::MAX);
            let (mappings, live) = (world.nats[0].mappings(), model.live_count(now));
            prop_assert!(mappings >= live, "{} of {} are left", mappings, live);
            prop_assert!(mappings <= model.live_count(now - slack), "{} where {} live", mappings, live);
        }
    }
}
