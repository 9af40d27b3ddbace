//! A headless Chromium, driven through chromedriver by the WebDriver protocol (W3C WebDriver 2) over one connection.
//!
//! Both programs are Debian's (`chromium`, `chromium-driver`). All that they write goes to a folder of their own, which
//! is removed with them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// How long chromedriver may take for one request; starting the browser is the longest.
const ANSWER_S_MAX: u64 = 60;

/// How long [`Chromium::wait`] waits.
const WAIT_S_MAX: u64 = 30;

/// How long the end of the browser's processes is waited for.
const END_S_MAX: u64 = 10;

const POLL_MS: u64 = 20;

/// Drivers that are tried. One has ended at once, in a run of all tests, without a word on its output; why is not known (its port
/// may have been taken in the other address family).
const DRIVERS_MAX: u32 = 4;

/// A phone's screen, in CSS pixels.
pub(crate) const PHONE: (u32, u32) = (390, 844);

/// The key under which WebDriver names an element (§12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A running browser with one page. Dropping it ends its processes, and no others, and removes their files.
#[derive(Debug)]
pub(crate) struct Chromium {
    driver: Child,
    _driver_stdout: BufReader<ChildStdout>,
    connection: BufReader<TcpStream>,
    session: String,
    folder: PathBuf,
}

impl Chromium {
    /// Starts chromedriver and the browser with the screen of a phone. `command` makes the command for a program; the
    /// calling thread must be in the network namespace in which the command runs, for it connects to chromedriver.
    pub(crate) fn launch(command: impl Fn(&str) -> Command) -> Self {
        Self::launch_with(command, &[])
    }

    /// The same, with more of the browser's own options.
    pub(crate) fn launch_with(command: impl Fn(&str) -> Command, options: &[String]) -> Self {
        let folder = fresh_folder();
        let (driver, stdout, port) = (1..=DRIVERS_MAX)
            .find_map(|number| driver(&command, &folder, number == DRIVERS_MAX))
            .expect("the last one serves or panics");
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("chromedriver answers");
        stream.set_read_timeout(Some(Duration::from_secs(ANSWER_S_MAX))).expect("a read timeout");
        stream.set_nodelay(true).expect("no delay");
        let connection = BufReader::new(stream);
        let mut chromium = Self { driver, _driver_stdout: stdout, connection, session: String::new(), folder };
        chromium.session = chromium.start_session(options);
        chromium.screen(PHONE);
        chromium
    }

    fn start_session(&mut self, more: &[String]) -> String {
        let mut arguments: Vec<_> = FLAGS.iter().map(|flag| (*flag).to_owned()).chain(more.iter().cloned()).collect();
        arguments.push(format!("--user-data-dir={}", self.folder.join("profile").display()));
        let options = json!({ "args": arguments, "binary": "/usr/bin/chromium" });
        let logs = json!({ "browser": "WARNING" });
        let match_all = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": logs });
        let wanted = json!({ "capabilities": { "alwaysMatch": match_all } });
        let answer = self.request("POST", "/session", Some(&wanted));
        answer["sessionId"].as_str().expect("a session").to_owned()
    }

    /// Opens a page, and returns when it has loaded.
    pub(crate) fn open(&mut self, url: &str) {
        self.command("url", &json!({ "url": url }));
    }

    /// Loads the page again, and returns when it has loaded.
    pub(crate) fn reload(&mut self) {
        self.command("refresh", &json!({}));
    }

    /// The result of the body of a JavaScript function.
    pub(crate) fn execute(&mut self, script: &str) -> Value {
        self.command("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// An attribute of the element that a CSS selector finds.
    pub(crate) fn attribute(&mut self, selector: &str, name: &str) -> Option<String> {
        let element = self.find(selector);
        self.get(&format!("element/{element}/attribute/{name}")).as_str().map(str::to_owned)
    }

    /// The visible text of an element.
    pub(crate) fn text(&mut self, selector: &str) -> String {
        let element = self.find(selector);
        self.get(&format!("element/{element}/text")).as_str().expect("a text").to_owned()
    }

    /// Clicks on an element, as a finger does.
    pub(crate) fn click(&mut self, selector: &str) {
        let element = self.find(selector);
        self.command(&format!("element/{element}/click"), &json!({}));
    }

    /// Waits until an element's attribute has this value, or is not there.
    pub(crate) fn wait<'a>(&mut self, selector: &str, attribute: &str, value: impl Into<Option<&'a str>>) {
        let value = value.into();
        let deadline = Instant::now() + Duration::from_secs(WAIT_S_MAX);
        loop {
            let found = self.attribute(selector, attribute);
            if found.as_deref() == value {
                return;
            }
            if Instant::now() > deadline {
                let page = self.text("body");
                panic!("{selector} has {attribute}={found:?} and not {value:?}; the page says: {page}");
            }
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
    }

    /// What the browser complained about in its console since it was last asked.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        let entries = self.command("se/log", &json!({ "type": "browser" }));
        entries.as_array().expect("a list").iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// The page as a PNG, as high as its screen.
    pub(crate) fn screenshot(&mut self) -> Vec<u8> {
        let png = self.get("screenshot");
        base64::engine::general_purpose::STANDARD.decode(png.as_str().expect("a PNG")).expect("base64")
    }

    /// Makes the screen this wide and high, in CSS pixels, with a phone's two device pixels for each.
    pub(crate) fn screen(&mut self, (width, height): (u32, u32)) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": true });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// What the page finds for `prefers-color-scheme`: `light` or `dark`.
    pub(crate) fn color_scheme(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    fn devtools(&mut self, method: &str, parameters: &Value) {
        self.command("goog/cdp/execute", &json!({ "cmd": method, "params": parameters }));
    }

    fn find(&mut self, selector: &str) -> String {
        let found = self.command("element", &json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    fn get(&mut self, path: &str) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        self.request("GET", &path, None)
    }

    fn command(&mut self, path: &str, parameters: &Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        self.request("POST", &path, Some(parameters))
    }

    fn request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Value {
        match self.try_request(method, path, body) {
            Ok(value) => value,
            Err(error) => panic!("chromedriver, {method} {path}: {error}"),
        }
    }

    fn try_request(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.connection.get_mut().write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        let mut answer = self.read_answer().map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", value["message"])),
            None => Ok(value),
        }
    }

    /// Reads one response; chromedriver always sends a Content-Length.
    fn read_answer(&mut self) -> std::io::Result<Value> {
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.connection.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let browser = descendants(self.driver.id());
        if !self.session.is_empty() {
            let path = format!("/session/{}", self.session);
            drop(self.try_request("DELETE", &path, None));
        }
        browser.iter().for_each(Process::kill);
        drop(self.driver.kill());
        drop(self.driver.wait());
        until(|| !browser.iter().any(Process::is_running));
        until(|| std::fs::remove_dir_all(&self.folder).is_ok() || !self.folder.exists());
    }
}

/// The browser's last processes take a moment to go, and may still write.
fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(END_S_MAX);
    while !condition() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
}

/// A chromedriver that serves, and its port; `None` where it ended at once, unless it is the last that is tried.
fn driver(
    command: &impl Fn(&str) -> Command,
    folder: &Path,
    is_last: bool,
) -> Option<(Child, BufReader<ChildStdout>, u16)> {
    let mut driver = command("chromedriver")
        .arg("--port=0")
        .env("HOME", folder)
        .env("TMPDIR", folder)
        .env_remove("DISPLAY")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver starts (Debian's package chromium-driver)");
    let mut stdout = BufReader::new(driver.stdout.take().expect("a piped output"));
    let port = announced_port(&mut stdout);
    match port {
        Ok(port) => Some((driver, stdout, port)),
        Err(said) => {
            driver.wait().expect("it has ended");
            assert!(!is_last, "chromedriver ended at once: {said}");
            None
        }
    }
}

/// chromedriver takes a free port and tells it; else what it said before its end.
fn announced_port(stdout: &mut impl BufRead) -> Result<u16, String> {
    let mut said = String::new();
    loop {
        let start = said.len();
        if stdout.read_line(&mut said).expect("chromedriver's output") == 0 {
            return Err(said);
        }
        if let Some((_, port)) = said[start..].split_once("started successfully on port ") {
            return Ok(port.trim().trim_end_matches('.').parse().expect("a port"));
        }
    }
}

fn fresh_folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("wstether-chromium-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir(&folder).expect("a folder of the browser's own");
    folder
}

/// A process, told from a later one with the same number by when it started.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    started: u64,
}

impl Process {
    /// The process of this number; `None` where there is none, or a dead one that nobody has waited for.
    fn of(id: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // proc(5): behind the name, which stands in brackets, come state (field 3), parent (4), … start time (22).
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let process = Self { id, parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()? };
        (fields[0] != "Z").then_some(process)
    }

    /// Its parent may have gone meanwhile.
    fn is_running(&self) -> bool {
        Self::of(self.id).is_some_and(|found| found.started == self.started)
    }

    fn kill(&self) {
        if self.is_running() {
            drop(Command::new("kill").args(["-KILL", &self.id.to_string()]).stderr(Stdio::null()).status());
        }
    }
}

/// The children of a process, their children, and so on: Chromium puts some in process groups of their own.
fn descendants(ancestor: u32) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut others: Vec<_> = ids.filter_map(Process::of).collect();
    let mut family = Vec::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        let (children, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|process| process.parent == parent);
        parents.extend(children.iter().map(|child| child.id));
        family.extend(children);
        others = rest;
    }
    family
}
