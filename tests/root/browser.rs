//! The main job as a person does it: what runs on the laptop reaches the internet through the page in a phone's browser.
//! The applications are Debian's, the browser is headless Chromium, the servers stand in a namespace of their own.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use socket2::SockRef;
use wstether::cli::{EgressMode, RelayKind};
use wstether::lab::internet::{CONGESTION_CONTROL, Internet, NAME};
use wstether::lab::tethering::{PAGE_PORT, Setting};
use wstether::lab::world::{INTERNET, LAPTOP, Layout, World};
use wstether::lab::{Isolation, Namespace, Program, Scratch};

use crate::chromium::Chromium;

/// What is fetched and sent.
const FILE_BYTES: usize = 16 << 20;
/// How fast a transfer that is to last goes, for curl: the file takes about eight seconds.
const SLOW: &str = "2M";
/// How much of it is there when the page is loaded again.
const EARLY_BYTES: u64 = 1 << 20;
const HTTP_PORT: u16 = 80;
const PINGS: &str = "20";
const IPERF_S: &str = "2";
/// How long a test waits for what takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn curl_ping_and_iperf3_reach_the_internet_through_a_page_in_a_browser() {
    through_the_page(EgressMode::Raw, "", |laptop, chromium| {
        assert_eq!(chromium.text("#headline"), "Your laptop is online");
        laptop.downloads(chromium);
        laptop.uploads(chromium);
        laptop.pings();
        laptop.measures(chromium);
        laptop.downloads_while_the_page_is_loaded_again(chromium);
        assert_eq!(chromium.complaints(), Vec::<String>::new());
    });
}

#[test]
fn curl_and_ping_reach_the_internet_through_a_page_that_carries_text() {
    through_the_page(EgressMode::Tun, "#base64=1", |laptop, chromium| {
        assert_eq!(subprotocol(chromium), "wstether.v1.base64");
        laptop.downloads(chromium);
        laptop.uploads(chromium);
        laptop.pings();
        assert_eq!(chromium.complaints(), Vec::<String>::new());
    });
}

/// Joins laptop and gateway by the page in a browser on the phone, gives both to `work`, and ends everything in order.
/// `fragment` is the end of the page's address.
fn through_the_page(egress: EgressMode, fragment: &str, work: impl FnOnce(&Laptop<'_>, &mut Chromium)) {
    let world = World::new(Layout::default()).expect("namespaces (needs root)");
    let scratch = Scratch::new().expect("a directory");
    let setting =
        Setting { binary: Path::new(env!("CARGO_BIN_EXE_wstether")), world: &world, scratch: &scratch, tls: false };
    let _internet = Internet::start(&world.internet, INTERNET, Arc::from([])).expect("DNS");
    let web = WebServer::start(&world.internet);

    let _logs = Logs(&scratch);
    let gateway = setting.gateway(egress, &[]).expect("a gateway");
    let token = setting.token("laptop").expect("a token");
    let mut client = setting.client(RelayKind::Headless, &token, &[]).expect("a client");
    let page_is_served = || reaches(&world.phone, LAPTOP, PAGE_PORT);
    setting.until("does not serve the page", &mut client, page_is_served).expect("the page");
    let mut chromium =
        world.phone.run(|| Chromium::launch(|program| Command::new(program))).expect("a thread on the phone");
    chromium.open(&format!("http://{LAPTOP}:{PAGE_PORT}/{fragment}"));
    wait_connected(&mut chromium);
    let resolver = setting.connected(&mut client).expect("the laptop's routes and resolver");
    eprintln!("egress {}, {}, resolver {resolver}", egress.word(), subprotocol(&mut chromium));

    work(&Laptop { setting: &setting, file: &web.file }, &mut chromium);

    drop(chromium);
    for program in [client, gateway] {
        let status = program.end().expect("its status");
        assert!(status.success(), "{status}");
    }
}

fn reaches(from: &Namespace, address: Ipv4Addr, port: u16) -> bool {
    from.run(|| TcpStream::connect((address, port))).is_ok_and(|connected| connected.is_ok())
}

/// Waits until the page shows both connections.
fn wait_connected(chromium: &mut Chromium) {
    chromium.wait("#laptop-state", "data-state", "connected");
    chromium.wait("#gateway-state", "data-state", "connected");
}

fn subprotocol(chromium: &mut Chromium) -> String {
    chromium.execute("return document.querySelector('#subprotocol').textContent").as_str().expect("a text").to_owned()
}

/// What the page has carried.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    up_bytes: u64,
    down_bytes: u64,
    up_messages: u64,
    down_messages: u64,
}

impl Carried {
    /// As the page shows it to the person.
    fn shown(chromium: &mut Chromium) -> Self {
        let mut bytes =
            |selector| chromium.attribute(selector, "data-bytes").and_then(|text| text.parse().ok()).expect("a number");
        let (up_bytes, down_bytes) = (bytes("#bytes-up"), bytes("#bytes-down"));
        let messages = chromium.execute("return document.querySelector('#messages').textContent");
        let (up, down) = messages.as_str().and_then(|text| text.split_once(" / ")).expect("two numbers");
        let number = |text: &str| text.parse().expect("a number");
        Self { up_bytes, down_bytes, up_messages: number(up), down_messages: number(down) }
    }

    fn since(self, before: Self) -> Self {
        Self {
            up_bytes: self.up_bytes - before.up_bytes,
            down_bytes: self.down_bytes - before.down_bytes,
            up_messages: self.up_messages - before.up_messages,
            down_messages: self.down_messages - before.down_messages,
        }
    }
}

/// Tells what the page has carried for `what` when it shows at least so many bytes each way.
fn carried_at_least(chromium: &mut Chromium, before: Carried, up_bytes: u64, down_bytes: u64, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    let carried = loop {
        let carried = Carried::shown(chromium).since(before);
        if carried.up_bytes >= up_bytes && carried.down_bytes >= down_bytes {
            break carried;
        }
        assert!(Instant::now() < deadline, "the page shows only {carried:?} for {what}");
        thread::sleep(PAUSE);
    };
    let each = |bytes: u64, messages: u64| bytes.checked_div(messages).unwrap_or(0);
    eprintln!(
        "{what}: the page carried up {} messages of {} bytes, down {} of {} on average",
        carried.up_messages,
        each(carried.up_bytes, carried.up_messages),
        carried.down_messages,
        each(carried.down_bytes, carried.down_messages)
    );
}

/// What a person does on the laptop.
struct Laptop<'a> {
    setting: &'a Setting<'a>,
    /// What the web server gives.
    file: &'a [u8],
}

impl Laptop<'_> {
    fn downloads(&self, chromium: &mut Chromium) {
        let (before, to) = (Carried::shown(chromium), self.setting.scratch.file("download"));
        let told = succeeded(self.curl(&["--output", &to.display().to_string()]).output());
        assert!(fs::read(to).expect("the download") == self.file, "the file came as it is");
        eprintln!("curl downloaded at {:.0} Mbit/s", speed_mbit_s(&told));
        carried_at_least(chromium, before, 1, FILE_BYTES as u64, "the download");
    }

    fn uploads(&self, chromium: &mut Chromium) {
        let (before, from) = (Carried::shown(chromium), self.setting.scratch.file("upload"));
        fs::write(&from, self.file).expect("a file");
        let digest = self.setting.scratch.file("digest");
        let paths = [&from, &digest].map(|path| path.display().to_string());
        let told = succeeded(self.curl(&["--upload-file", &paths[0], "--output", &paths[1]]).output());
        assert_eq!(fs::read(digest).expect("the answer"), Sha256::digest(self.file).as_slice());
        eprintln!("curl uploaded at {:.0} Mbit/s", speed_mbit_s(&told));
        carried_at_least(chromium, before, FILE_BYTES as u64, 1, "the upload");
    }

    fn pings(&self) {
        let told = succeeded(self.command("ping").args(["-c", PINGS, "-i", "0.1", NAME]).output());
        assert!(told.contains(&format!("{INTERNET}")), "{told}");
        assert!(told.contains(", 0% packet loss"), "{told}");
        eprintln!("ping: {}", told.lines().last().unwrap_or_default());
    }

    fn measures(&self, chromium: &mut Chromium) {
        let _server = self.iperf_server();
        for (way, arguments) in [("up", &[][..]), ("down", &["--reverse"])] {
            let before = Carried::shown(chromium);
            let cubic = String::from_utf8_lossy(CONGESTION_CONTROL);
            let mut iperf = self.command("iperf3");
            iperf.args(["--client", NAME, "--time", IPERF_S, "--json", "--congestion", &cubic]).args(arguments);
            let told: Value = serde_json::from_str(&succeeded(iperf.output())).expect("JSON");
            assert_eq!(told["error"], Value::Null);
            let received = &told["end"]["sum_received"];
            let (bytes, bits_s) = (received["bytes"].as_u64(), received["bits_per_second"].as_f64());
            assert!(bits_s > Some(0.0), "{told}");
            eprintln!("iperf3 {way}: {:.0} Mbit/s", bits_s.unwrap_or_default() / 1e6);
            let least = |is_this: bool| if is_this { bytes.unwrap_or_default() } else { 1 };
            carried_at_least(chromium, before, least(way == "up"), least(way == "down"), &format!("iperf3 {way}"));
        }
    }

    /// Starts iperf3's server, which takes one client after another.
    fn iperf_server(&self) -> Program {
        let mut command = command(&self.setting.world.internet, "iperf3", None);
        command.args(["--server", "--bind", &INTERNET.to_string(), "--forceflush"]);
        let log = self.setting.scratch.file("iperf3.log");
        let mut server = Program::start("iperf3", command, log.clone()).expect("iperf3 starts");
        let listens = || fs::read_to_string(&log).is_ok_and(|log| log.contains("Server listening"));
        self.setting.until("does not listen", &mut server, listens).expect("iperf3's server");
        server
    }

    /// The page is loaded anew in the middle of a download, which goes on through the new page.
    fn downloads_while_the_page_is_loaded_again(&self, chromium: &mut Chromium) {
        let to = self.setting.scratch.file("slow");
        let curl = self.curl(&["--limit-rate", SLOW, "--output", &to.display().to_string()]);
        let mut curl = Program::start("curl", curl, self.setting.scratch.file("curl.log")).expect("curl starts");
        let length = || fs::metadata(&to).map_or(0, |file| file.len());
        let deadline = Instant::now() + PATIENCE;
        while length() < EARLY_BYTES {
            assert!(Instant::now() < deadline, "only {} bytes have come", length());
            thread::sleep(PAUSE);
        }
        chromium.reload();
        wait_connected(chromium);
        assert_eq!(curl.ended().expect("its status"), None, "curl goes on: {}", curl.log());
        let missing = FILE_BYTES as u64 - length();
        eprintln!("the page was loaded again when {missing} of {FILE_BYTES} bytes were missing");
        let ended = curl.wait(PATIENCE).expect("its status");
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", curl.log());
        assert!(fs::read(&to).expect("the download") == self.file, "the file came as it is");
        // The new page counts from nothing. Of what was missing in the file some had come, and waited for curl's slow reading.
        carried_at_least(chromium, Carried::default(), 1, missing / 2, "the rest");
        let tethers = self.setting.status().map(|status| status.tethers);
        assert_eq!(tethers, Some(1), "the new page serves the tether that was");
    }

    /// curl, which fetches the file by the server's name and tells the server's address and the rate.
    fn curl(&self, arguments: &[&str]) -> Command {
        let mut curl = self.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", &PATIENCE.as_secs().to_string()])
            .args(["--write-out", "%{remote_ip} %{speed_download} %{speed_upload}", &format!("http://{NAME}/")])
            .args(arguments);
        curl
    }

    /// An application on the laptop, which finds the names' servers where the client wrote them.
    fn command(&self, program: &str) -> Command {
        command(&self.setting.world.laptop, program, Some(&self.setting.laptop_resolv_conf()))
    }
}

fn command(namespace: &Namespace, program: &str, resolv_conf: Option<&Path>) -> Command {
    let mut command = namespace.command(program, Isolation { resolv_conf, dies_with_parent: true }).expect("a command");
    command.env("LC_ALL", "C").env_remove("http_proxy").stdin(Stdio::null());
    command
}

fn succeeded(ran: std::io::Result<Output>) -> String {
    let Output { status, stdout, stderr } = ran.expect("a program of Debian's (curl, iputils-ping, iperf3)");
    let told = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{status}: {told}{}", String::from_utf8_lossy(&stderr));
    told
}

/// The rate that curl told, of the server that was meant.
fn speed_mbit_s(told: &str) -> f64 {
    let words: Vec<_> = told.split(' ').collect();
    assert_eq!(words[0], INTERNET.to_string());
    words[1..].iter().map(|word| word.parse::<f64>().expect("a number")).sum::<f64>() * 8.0 / 1e6
}

/// The programs' logs, shown where the test fails.
struct Logs<'a>(&'a Scratch);

impl Drop for Logs<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for name in ["gateway.log", "client.log"] {
                eprintln!("{name}:\n{}", fs::read_to_string(self.0.file(name)).unwrap_or_default());
            }
        }
    }
}

/// A web server: it gives its file, and answers one that is put with its SHA-256 digest.
struct WebServer {
    file: Arc<[u8]>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    fn start(namespace: &Namespace) -> Self {
        let mut file = vec![0; FILE_BYTES];
        getrandom::fill(&mut file).expect("random bytes");
        let file: Arc<[u8]> = file.into();
        let listener = namespace.run(|| TcpListener::bind((INTERNET, HTTP_PORT))).expect("inside").expect("a listener");
        SockRef::from(&listener).set_tcp_congestion(CONGESTION_CONTROL).expect("cubic");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let over = Arc::<AtomicBool>::default();
        let (is_over, given) = (Arc::clone(&over), Arc::clone(&file));
        let serve = move || {
            while !is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => drop(answer(stream, &given)),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        };
        Self { file, over, thread: Some(thread::spawn(serve)) }
    }
}

/// One request and its answer; whoever asked notices what fails.
fn answer(stream: TcpStream, file: &[u8]) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    while stream.read_line(&mut line)? > 2 {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        } else if lower.starts_with("expect: 100-continue") {
            stream.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        line.clear();
    }
    let mut taken = Vec::new();
    (&mut stream).take(length).read_to_end(&mut taken)?;
    let digest = Sha256::digest(&taken);
    let body = if length == 0 { file } else { &digest[..] };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.get_mut().write_all(head.as_bytes())?;
    stream.get_mut().write_all(body)
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}
