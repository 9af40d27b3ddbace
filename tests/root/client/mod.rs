//! `wstether client` as a program: a laptop and a gateway in namespaces of their own, a router's hop between them.

mod changes;
mod gateway;
mod strangers;

use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use wstether::io::netlink::{self, Netlink, Prefix, Route};
use wstether::lab::{Isolation, Namespace, dns, veth};
use wstether::wire::capsule::Features;
use wstether::wire::proof::Verifier;

use gateway::{Gateway, Heard, INNER, LEASE, MTU_BYTES, Script, credential};

const LAPTOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Behind the router.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PORT: u16 = 8_080;
/// The default of phone.listen.
const PAGE_PORT: u16 = 8_088;
const NAME: &str = "gateway.example";
/// Behind the router, too.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// Somewhere on the internet.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// How long something is waited for that will come: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

const ORIGINAL_DNS: &str = "nameserver 192.0.2.53\n";

/// The two namespaces, and the files of one test.
struct World {
    laptop: Namespace,
    gateway: Namespace,
    files: PathBuf,
}

impl World {
    fn new(test: &str) -> Self {
        let (laptop, gateway) = (Namespace::new("laptop").unwrap(), Namespace::new("gateway").unwrap());
        veth(&laptop, "eth0", &gateway, "eth0").unwrap();
        laptop.address("eth0", Prefix::new(LAPTOP.into(), 24)).unwrap();
        gateway.address("eth0", Prefix::new(ROUTER.into(), 24)).unwrap();
        gateway.address("lo", Prefix::new(GATEWAY.into(), 32)).unwrap();
        laptop.route(Prefix::ALL_V4, ROUTER.into(), "eth0").unwrap();
        let files = std::env::temp_dir().join(format!("wstether-client-{test}-{}", std::process::id()));
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("resolv.conf"), ORIGINAL_DNS).unwrap();
        Self { laptop, gateway, files }
    }

    fn serve(&self, verifier: Verifier, features: Features) -> Gateway {
        let address = SocketAddr::from((GATEWAY, PORT));
        self.gateway.run(|| Gateway::serve(address, Script { verifier, features })).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(Isolation::default(), arguments)
    }

    fn command_in(&self, isolation: Isolation<'_>, arguments: &[&str]) -> Command {
        // Tests that run under nohup(1) ignore SIGHUP, and their children would, too.
        let mut command = self.laptop.command("env", isolation).unwrap();
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_wstether"), "client"]).args(arguments);
        command.arg("--set").arg(format!("runtime.directory={}", self.files.join("run").display()));
        command.arg("--set").arg(format!("dns.file={}", self.files.join("resolv.conf").display()));
        command
    }

    fn direct(&self, token: &str, more: &[&str]) -> Program {
        let mut command = self.direct_command(token);
        command.args(more);
        Program::start(command)
    }

    /// The same, with all that it says written to `terminal`.
    fn direct_on(&self, token: &str, terminal: PipeWriter) -> Program {
        let mut command = self.direct_command(token);
        let child = command.stderr(terminal.try_clone().unwrap()).stdout(terminal).spawn().unwrap();
        Program { child, lines: channel().1 }
    }

    /// A client that knows the gateway by its name, and asks the name server for that.
    fn direct_by_name(&self, token: &str) -> Program {
        let (token_file, resolv_conf) = (self.files.join("token"), self.files.join("by-name.conf"));
        fs::write(&token_file, token).unwrap();
        fs::write(&resolv_conf, format!("nameserver {NAME_SERVER}\n")).unwrap();
        let isolation = Isolation { resolv_conf: Some(&resolv_conf), dies_with_parent: false };
        let url = format!("ws://{NAME}:{PORT}/wstether");
        Program::start(
            self.command_in(isolation, &["--direct", &url, "--token-file", &token_file.display().to_string()]),
        )
    }

    /// Answers questions for the gateway's name, behind the router.
    fn serve_names(&self) {
        self.gateway.address("lo", Prefix::new(NAME_SERVER.into(), 32)).unwrap();
        let socket = self.gateway.run(|| UdpSocket::bind((NAME_SERVER, 53)).unwrap()).unwrap();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let answer = dns::answer(&question[..length], |name| (name == NAME).then_some(GATEWAY));
                socket.send_to(&answer.unwrap(), from).unwrap();
            }
        });
    }

    /// The same on a terminal of its own, which passes on what it shows.
    fn direct_on_a_terminal(&self, token: &str) -> Program {
        let command = self.direct_command(token);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let mut terminal = self.laptop.command("script", Isolation::default()).unwrap();
        terminal.args(["--quiet", "--return", "--command", &line.join(" "), "/dev/null"]);
        Program::start(terminal)
    }

    fn direct_command(&self, token: &str) -> Command {
        let token_file = self.files.join("token");
        fs::write(&token_file, token).unwrap();
        let url = format!("ws://{GATEWAY}:{PORT}/wstether");
        self.command(&["--direct", &url, "--token-file", &token_file.display().to_string()])
    }

    /// A client that waits for its relay.
    fn through_a_phone(&self, token: &str) -> Program {
        self.through_a_phone_by(token, "auto")
    }

    /// The same, the phone being reached by this interface.
    fn through_a_phone_by(&self, token: &str, interface: &str) -> Program {
        let token_file = self.files.join("token");
        fs::write(&token_file, token).unwrap();
        let (url, interface) = (format!("ws://{GATEWAY}:{PORT}/wstether"), format!("phone.interface={interface}"));
        let token_file = token_file.display().to_string();
        Program::start(self.command(&["--gateway", &url, "--token-file", &token_file, "--set", &interface]))
    }

    /// A gateway, and a client that waits for its relay.
    fn begin_behind_a_phone(&self) -> (Gateway, Program) {
        let (token, verifier) = credential();
        let gateway = self.serve(verifier, Features::SUPER_PACKETS);
        let client = self.through_a_phone(&token.reveal().to_string());
        client.says("waiting for the phone");
        (gateway, client)
    }

    /// A relay in the place of the router, which here is the phone.
    fn relay(&self) -> Program {
        let mut command = self.gateway.command(env!("CARGO_BIN_EXE_wstether"), Isolation::default()).unwrap();
        command.args(["relay", "--client", &format!("ws://{LAPTOP}:{PAGE_PORT}/wstether")]);
        command.args(["--gateway", &format!("ws://{GATEWAY}:{PORT}/wstether")]);
        Program::start(command)
    }

    fn routes(&self) -> Vec<Route> {
        self.laptop.netlink(|netlink| netlink.routes(true)).unwrap()
    }

    /// The interface that a packet to `destination` leaves by.
    fn way_to(&self, destination: Ipv4Addr) -> String {
        self.laptop
            .netlink(|netlink| {
                let interface = netlink.next_hop(destination.into())?.interface;
                Ok(netlink.link_by_index(interface)?.name)
            })
            .unwrap()
    }

    fn dns(&self) -> String {
        fs::read_to_string(self.files.join("resolv.conf")).unwrap()
    }

    fn has_tun(&self) -> bool {
        self.laptop.netlink(|netlink| netlink.links()).unwrap().iter().any(|link| link.name == "wst0")
    }

    fn ping(&self, destination: Ipv4Addr) -> bool {
        let mut ping = self.laptop.command("ping", Isolation::default()).unwrap();
        ping.args(["-c", "3", "-i", "0.2", "-W", "5", &destination.to_string()]).stdout(Stdio::null());
        ping.status().unwrap().success()
    }

    fn is_as_before(&self, routes: &[Route]) {
        assert_eq!((self.dns().as_str(), self.has_tun()), (ORIGINAL_DNS, false));
        assert_eq!(self.routes(), routes);
        assert!(!self.files.join("run/client.json").exists());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.files));
    }
}

/// A running client or relay, and what it says.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

/// Passes on each line that is said.
fn listen(said: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            eprintln!("{line}");
            // A test that is over does not listen any more.
            drop(lines.send(line));
        }
    });
}

impl Program {
    fn start(mut command: Command) -> Self {
        // One pipe for both, so that what it says is heard in its order.
        let (said, says) = std::io::pipe().unwrap();
        let child = command.stderr(says.try_clone().unwrap()).stdout(says).spawn().unwrap();
        // The command holds this process's ends of the pipe, which would never come to its end.
        drop(command);
        let (sender, lines) = channel();
        listen(said, sender);
        Self { child, lines }
    }

    /// Waits until the program says something with `text` in it, and returns that.
    fn says(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("the program does not say {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// All that it still says up to its end after SIGTERM.
    fn last_words(&self) -> Vec<String> {
        self.signal("TERM");
        self.lines.iter().collect()
    }

    /// The exit status after SIGTERM.
    fn stop(self) -> Option<i32> {
        self.signal("TERM");
        self.ends()
    }

    /// The exit status.
    fn ends(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_client_sets_up_the_laptop_carries_packets_and_undoes_all_on_sigterm() {
    for features in [Features::SUPER_PACKETS, Features::default()] {
        let world = World::new("whole");
        let before = world.routes();
        let (token, verifier) = credential();
        let gateway = world.serve(verifier, features);
        let client = world.direct(&token.reveal().to_string(), &[]);
        let line = client.says("connected: ");
        assert!(line.contains(&format!("{LEASE}, MTU {MTU_BYTES}, straight to the gateway")), "{line}");
        assert_eq!(gateway.next(), Heard::Welcomed { resumed: false });

        let link = world.laptop.netlink(|netlink| netlink.link("wst0")).unwrap();
        assert_eq!(link.mtu, u32::from(MTU_BYTES));
        let addresses = world.laptop.netlink(|netlink| netlink.addresses("wst0")).unwrap();
        assert!(addresses.contains(&Prefix::new(LEASE.into(), 32)), "{addresses:?}");
        assert!(world.dns().contains(&format!("nameserver {INNER}\n")), "{}", world.dns());
        assert_eq!(world.way_to(ANYWHERE), "wst0");
        assert_eq!(world.way_to(GATEWAY), "eth0", "the tunnel's own connection goes past it");
        assert_eq!(world.way_to(ROUTER), "eth0", "the local network stays as it is");
        assert!(world.ping(ANYWHERE));

        assert_eq!(client.last_words(), ["stopped: the client's routes and DNS are undone"]);
        assert_eq!(client.ends(), Some(0));
        assert_eq!(gateway.next(), Heard::Closed(Some(1000)));
        world.is_as_before(&before);
    }
}

#[test]
fn a_client_whose_terminal_closes_undoes_all() {
    let world = World::new("terminal");
    let before = world.routes();
    let (token, verifier) = credential();
    let gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let (terminal, end) = std::io::pipe().unwrap();
    let client = world.direct_on(&token.reveal().to_string(), end);
    let said = BufReader::new(terminal).lines().map_while(Result::ok);
    // What it says from then on nobody can read.
    assert!(said.into_iter().any(|line| line.contains("connected: ")), "the client does not connect");
    assert_ne!(world.dns(), ORIGINAL_DNS);
    client.signal("HUP");
    assert_eq!(client.ends(), Some(0));
    assert_eq!([gateway.next(), gateway.next()], [Heard::Welcomed { resumed: false }, Heard::Closed(Some(1000))]);
    world.is_as_before(&before);
}

#[test]
fn what_a_killed_client_left_is_undone_by_down_and_by_the_next_start() {
    let world = World::new("killed");
    let before = world.routes();
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    for way in ["down", "start"] {
        let client = world.direct(&token.reveal().to_string(), &[]);
        client.says("connected: ");
        assert!(world.routes().iter().any(|route| route.destination == Prefix::new(GATEWAY.into(), 32)));
        client.signal("KILL");
        assert_eq!(client.ends(), None);
        assert_ne!(world.dns(), ORIGINAL_DNS);
        if way == "down" {
            let (dns, run) = (world.files.join("resolv.conf"), world.files.join("run"));
            let undone = format!("undone: 1 route past the tunnel, DNS in {}\n", dns.display());
            // Twice is as good as once.
            for told in [undone, format!("nothing to undo in {} and {}\n", run.display(), dns.display())] {
                let output = world.command(&["--down"]).output().unwrap();
                assert!(output.status.success());
                assert_eq!(String::from_utf8_lossy(&output.stdout), told);
            }
        } else {
            let client = world.direct(&token.reveal().to_string(), &[]);
            client.says("connected: ");
            assert_eq!(client.stop(), Some(0));
        }
        world.is_as_before(&before);
    }
}

#[test]
fn after_a_reboot_which_empties_the_runtime_directory_the_original_dns_comes_back() {
    let world = World::new("reboot");
    let resolv_conf = world.files.join("resolv.conf");
    // Somebody's, and not for everybody.
    let (owner, mode) = (Some(1_234), 0o640);
    std::os::unix::fs::chown(&resolv_conf, owner, owner).unwrap();
    fs::set_permissions(&resolv_conf, fs::Permissions::from_mode(mode)).unwrap();
    let before = world.routes();
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    for way in ["down", "start"] {
        let client = world.direct(&token.reveal().to_string(), &[]);
        client.says("connected: ");
        client.signal("KILL");
        assert_eq!(client.ends(), None);
        assert_ne!(world.dns(), ORIGINAL_DNS);
        fs::remove_dir_all(world.files.join("run")).unwrap();
        world.laptop.netlink(delete_route_past_the_tunnel).unwrap();
        if way == "down" {
            let output = world.command(&["--down"]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(told, format!("undone: DNS in {}\n", resolv_conf.display()));
        } else {
            let client = world.direct(&token.reveal().to_string(), &[]);
            client.says("connected: ");
            assert_eq!(client.stop(), Some(0));
        }
        world.is_as_before(&before);
        let metadata = fs::metadata(&resolv_conf).unwrap();
        assert_eq!((Some(metadata.uid()), Some(metadata.gid()), metadata.mode() & 0o777), (owner, owner, mode));
    }
}

/// As the kernel forgets it in a reboot.
fn delete_route_past_the_tunnel(netlink: &mut Netlink) -> Result<(), netlink::Error> {
    let index = netlink.link("eth0")?.index;
    netlink.delete_route(&Route::new(Prefix::new(GATEWAY.into(), 32), index).via(ROUTER.into()))
}

#[test]
fn a_broken_link_is_dialled_again_and_the_device_stays() {
    let world = World::new("again");
    let (token, verifier) = credential();
    let gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &[]);
    client.says("connected: ");
    assert_eq!(gateway.next(), Heard::Welcomed { resumed: false });
    let (device, routes) = (world.laptop.netlink(|netlink| netlink.link("wst0")).unwrap(), world.routes());
    gateway.break_links();
    assert_eq!(gateway.next(), Heard::Closed(None));
    client.says("connected again: ");
    assert_eq!(gateway.next(), Heard::Welcomed { resumed: true });
    assert_eq!(world.laptop.netlink(|netlink| netlink.link("wst0")).unwrap(), device);
    assert_eq!(world.routes(), routes);
    assert!(world.ping(ANYWHERE));
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn a_gateway_that_comes_back_is_found_where_it_was_although_its_name_cannot_be_asked_for() {
    let world = World::new("name-server");
    let (token, verifier) = credential();
    let gateway = world.serve(verifier, Features::SUPER_PACKETS);
    world.serve_names();
    let client = world.direct_by_name(&token.reveal().to_string());
    client.says("connected: ");
    // Where everything goes through the tunnel, so do questions for names.
    gateway.set_away(true);
    gateway.break_links();
    for _ in 0..2 {
        let line = client.says("not connected, next attempt in ");
        assert!(line.contains(&format!("{GATEWAY}:{PORT} hung up")), "{line}");
    }
    gateway.set_away(false);
    client.says("connected again: ");
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn a_name_for_the_device_that_another_interface_has_is_told() {
    let world = World::new("name");
    let before = world.routes();
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &["--set", "tun.name=eth0"]);
    let line = client.says("wstether: eth0 exists and is not a TUN device");
    assert!(line.contains("tun.name"), "{line}");
    assert_eq!(client.ends(), Some(1));
    world.is_as_before(&before);
}

#[test]
fn a_relay_joins_client_and_gateway_and_a_newer_one_takes_over() {
    let world = World::new("phone");
    let before = world.routes();
    let (gateway, client) = world.begin_behind_a_phone();
    let first = world.relay();
    let line = client.says("connected: ");
    assert!(line.contains(&format!("through the phone ({ROUTER})")), "{line}");
    assert_eq!(gateway.next(), Heard::Welcomed { resumed: false });
    assert!(world.ping(ANYWHERE));
    let device = world.laptop.netlink(|netlink| netlink.link("wst0")).unwrap();

    let second = world.relay();
    client.says("connected again: ");
    assert_eq!(gateway.next(), Heard::Welcomed { resumed: true });
    assert_eq!(gateway.next(), Heard::Closed(Some(4000)), "the older relay is let go");
    assert!(world.ping(ANYWHERE));

    // It has ended by itself: two that dial again would push each other out for ever.
    assert_eq!(first.ends(), Some(1));
    drop(second);
    client.says("waiting for its page to come back");
    let _third = world.relay();
    client.says("connected again: ");
    assert!(world.ping(ANYWHERE));
    assert_eq!(world.laptop.netlink(|netlink| netlink.link("wst0")).unwrap(), device);
    assert_eq!(client.stop(), Some(0));
    world.is_as_before(&before);
}

#[test]
fn a_wrong_token_ends_the_client_with_advice_and_nothing_is_changed() {
    let world = World::new("refused");
    let before = world.routes();
    let ((token, _), (_, verifier)) = (credential(), credential());
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &[]);
    let line = client.says("does not accept this token");
    assert!(line.contains("wstether token new") && line.contains("no such credential"), "{line}");
    assert_eq!(client.ends(), Some(1));
    world.is_as_before(&before);
}

#[test]
fn a_gateway_that_is_not_there_is_told_with_the_next_attempt_in_front() {
    let world = World::new("nobody");
    let client = world.direct(&credential().0.reveal().to_string(), &[]);
    let line = client.says("not connected, next attempt in ");
    assert!(line.contains(" s: ") && line.ends_with("is the port the right one?"), "{line}");
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn on_a_terminal_the_first_line_is_the_clients_own() {
    let world = World::new("first-line");
    let client = world.direct_on_a_terminal(&credential().0.reveal().to_string());
    let line = client.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("connecting to ws://"), "{line}");
    client.stop();
}

#[test]
fn a_congestion_control_that_the_kernel_does_not_have_ends_the_client_at_once_with_those_that_it_has() {
    let world = World::new("congestion");
    let before = world.routes();
    let token = credential().0.reveal().to_string();
    let client = world.direct(&token, &["--set", "client.congestion=nonsense"]);
    let line = client.says("\"nonsense\" cannot be had");
    assert!(line.contains("this kernel offers: ") && line.contains("client.congestion"), "{line}");
    assert_eq!(client.ends(), Some(1));
    world.is_as_before(&before);
}

#[test]
fn without_the_default_route_only_what_is_included_goes_through_and_dns_stays() {
    let world = World::new("include");
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let more = ["--set", "routes.default=false", "--set", "routes.include=[\"203.0.113.0/24\"]"];
    let client = world.direct(&token.reveal().to_string(), &more);
    client.says("connected: ");
    assert_eq!(
        (world.way_to(ANYWHERE).as_str(), world.way_to(Ipv4Addr::new(203, 0, 114, 1)).as_str()),
        ("wst0", "eth0")
    );
    assert_eq!(world.dns(), ORIGINAL_DNS);
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn an_ipv6_way_out_that_goes_past_the_tunnel_is_told_once_unless_not_everything_was_to_go_through() {
    let world = World::new("ipv6");
    let [address, router] = ["2001:db8::2", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
    world.laptop.address("eth0", Prefix::new(address, 64)).unwrap();
    world.laptop.route(Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0), router, "eth0").unwrap();
    let (token, verifier) = credential();
    let gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let is_told = |line: &String| line.contains("IPv6");

    let client = world.direct(&token.reveal().to_string(), &[]);
    let line = client.says("IPv6 goes past the tunnel");
    assert!(line.contains("leaves by eth0") && line.contains("net/ipv6/conf/eth0/disable_ipv6=1"), "{line}");
    gateway.break_links();
    client.says("connected again: ");
    assert!(!client.last_words().iter().any(is_told));

    let narrow = ["--set", "routes.default=false", "--set", "routes.include=[\"203.0.113.0/24\"]"];
    let client = world.direct(&token.reveal().to_string(), &narrow);
    client.says("connected: ");
    assert!(!client.last_words().iter().any(is_told));
}

#[test]
fn what_is_excluded_goes_past_the_tunnel() {
    let world = World::new("exclude");
    let before = world.routes();
    let (token, verifier) = credential();
    let _gateway = world.serve(verifier, Features::SUPER_PACKETS);
    let client = world.direct(&token.reveal().to_string(), &["--set", "routes.exclude=[\"203.0.113.0/24\"]"]);
    client.says("connected: ");
    assert_eq!(
        (world.way_to(ANYWHERE).as_str(), world.way_to(Ipv4Addr::new(203, 0, 114, 1)).as_str()),
        ("eth0", "wst0")
    );
    assert_eq!(
        world.laptop.netlink(|netlink| netlink.next_hop(ANYWHERE.into())).unwrap().neighbour,
        IpAddr::from(ROUTER)
    );
    assert_eq!(client.stop(), Some(0));
    world.is_as_before(&before);
}
