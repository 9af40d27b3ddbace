// The relay: joins the laptop's WebSocket to the gateway's, one message in, one message out, in order.
// It knows nothing of what the messages hold. Laptop and gateway keep the window between them, so it only forwards.
"use strict";

// Every text of the page, in one place for translation. {name} is filled in.
const TEXTS = {
  laptop: "Laptop", phone: "Phone", gateway: "Gateway",
  connected: "connected", connecting: "connecting…", closed: "offline",
  relaying: "relaying", idle: "waiting", paused: "stopped",
  up: "Upload", down: "Download",
  headline: {
    connected: "Your laptop is online", connecting: "Connecting…", waiting: "Not connected", stopped: "Stopped",
  },
  uptime: "for {time}", again: "Next try in {seconds} s", trying: "Trying…", pressStart: "Press Start to share this phone's data",
  start: "Start", stop: "Stop",
  hint: "Keep this page open and the screen on while the laptop is online.",
  total: "{bytes} total", waitingBytes: "{bytes} wait in this phone: the network ahead is slower than the data comes.",
  details: "Details", gatewayUrl: "Gateway", subprotocol: "Subprotocol", messages: "Messages up / down",
  buffered: "Waiting here up / down", attempts: "Connections tried", lastClose: "Last end",
  said: "It said: {reason}", code: "code {code} from {side}", codeReason: "code {code} from {side}: {reason}",
};

// Why it does not work, and what to do about it. The key starts with the side that is in trouble, if it is one side's.
const FAILURES = {
  offline: ["This phone has no network.", "Switch on mobile data, and join the laptop's Wi-Fi or cable."],
  laptopUnreachable: ["The phone cannot reach the laptop.",
    "Is this phone still joined to the laptop (Wi-Fi or cable), and is “wstether client” running there?"],
  laptopRefused: ["The laptop serves this page but refuses its connection.",
    "Is this page open a second time, here or on another phone? Otherwise restart “wstether client”."],
  laptopLost: ["The connection to the laptop ended.",
    "It comes back by itself when the laptop does. Is “wstether client” still running?"],
  gatewayUnset: ["The laptop has named no gateway.", "Set the gateway's URL in the laptop's configuration, and reload this page."],
  gatewayUrlBad: ["The gateway's address is not a WebSocket URL.", "It must start with wss:// or ws://. Correct it on the laptop: {gateway}"],
  gatewayMixed: ["This browser forbids an insecure gateway from a secure page.",
    "The page came over https, so the gateway's URL must start with wss://. Correct it on the laptop: {gateway}"],
  gatewayUnreachable: ["The laptop is here, but the gateway cannot be reached.",
    "Is mobile data on, and does another site load in this browser? If so, check on the laptop that this is a running gateway: {gateway}"],
  gatewayUnreachableTls: ["The laptop is here, but the gateway cannot be reached.",
    "Is mobile data on, and does another site load in this browser? If so, open {https} here: where the browser warns of the certificate, " +
    "that is the trouble, and the phone has to trust it first. If not, check on the laptop that this is a running gateway: {gateway}"],
  gatewayToken: ["The gateway does not accept the laptop's token.",
    "Make a new one at the gateway (wstether token new), give it to the laptop, and start wstether client again."],
  gatewaySilent: ["The gateway was reached but says nothing.",
    "Something between may hold its messages back. The next try uses plain text; or try another network."],
  gatewayForeign: ["What answers is not a wstether gateway.", "Check the gateway's URL on the laptop: {gateway}"],
  gatewayLost: ["The gateway ended the connection.", "It is dialled again by itself. If it keeps ending, look at the laptop's messages."],
  replaced: ["Another page or relay has taken over.",
    "One is enough: close this page, or press Start to take over again."],
  laptopOverrun: ["The laptop sent too much before the gateway was there.", "It is tried again by itself. If it stays, update wstether on the laptop."],
};

const PATH = "/wstether";
const SETTINGS_PATH = "/relay.json";
const BINARY = "wstether.v1";
const BASE64 = "wstether.v1.base64";

const CONNECT_MS_MAX = 10000;       // a browser alone waits two minutes for an address that does not answer
const FIRST_MESSAGE_MS_MAX = 10000; // the gateway speaks first; a proxy that swallows binary messages shows here
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 15000;
const STEADY_MS = 10000;            // a connection that lived this long was a good one: the backoff starts anew
const HELD_MESSAGES_MAX = 64;       // from the laptop, while the gateway is being dialled
const HELD_BYTES_MAX = 1 << 20;
const BUFFERED_BYTES_SHOWN = 1 << 20;
const TRIES_A_BASE64 = 3;           // every third try uses text, in case binary messages are what is refused
const TICK_MS = 500;

// Close codes (RFC 6455 section 7.4). A page may send 1000 and 3000 to 4999 alone, so what one side ended with
// goes to the other as it is where allowed, and as 4900 + (code - 1000) where not: 1001 as 4901, 1006 as 4906.
const CLOSE = { stopped: 1000, mapped: 4900, unreachable: 4920, overrun: 4921, silent: 4922, subprotocol: 4923 };
const POLICY = 1008;                // by the gateway, with one of these reasons where it is the token's
const TOKEN_REASONS = ["bad_credential", "the token was revoked"];
const REPLACED = 4000;              // by laptop or gateway: a newer link has this one's place
const REASON_BYTES_MAX = 123;

function codeToPassOn(code) {
  return code === 1000 || (code >= 3000 && code <= 4999) ? code : CLOSE.mapped + (code - 1000);
}

function sizeOf(data) {
  return typeof data === "string" ? data.length : data.byteLength; // text is base64: a byte a character
}

// A browser does not say that it was the certificate.
function unreachable(gatewayUrl) {
  return gatewayUrl.startsWith("wss:") ? "gatewayUnreachableTls" : "gatewayUnreachable";
}

function cutReason(reason) {
  let cut = reason;
  while (new TextEncoder().encode(cut).length > REASON_BYTES_MAX) cut = cut.slice(0, -1);
  return cut;
}

// One joining of two WebSockets, from the first dial to the end. `ended(failure)` is called once.
class Session {
  constructor(laptopUrl, gatewayUrl, subprotocol, ended) {
    Object.assign(this, { gatewayUrl, subprotocol, ended });
    this.over = false;
    this.held = [];
    this.heldBytes = 0;
    this.heard = false;    // the gateway has spoken: the way is good
    this.openedAt = null;
    this.timer = 0;
    this.laptop = null;
    this.gateway = null;
    this.dial("laptop", laptopUrl);
  }

  dial(side, url) {
    let ws;
    try {
      ws = new WebSocket(url, this.subprotocol);
    } catch (error) {
      const why = error.name === "SyntaxError" ? "gatewayUrlBad" : "gatewayMixed";
      this.end(why, CLOSE.unreachable, "the gateway's URL");
      return;
    }
    ws.binaryType = "arraybuffer";
    ws.onopen = () => this.over || this.opened(side, ws);
    ws.onmessage = (event) => this.over || this.pass(side, event.data);
    ws.onclose = (event) => this.over || this.closed(side, event);
    this[side] = ws;
    const late = side === "laptop" ? "laptopUnreachable" : unreachable(this.gatewayUrl);
    this.expect(CONNECT_MS_MAX, late, CLOSE.unreachable, "no answer in time");
    page.show();
  }

  expect(ms, failure, code, reason) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.end(failure, code, reason), ms);
  }

  opened(side, ws) {
    if (ws.protocol !== this.subprotocol) {
      this.end(side === "laptop" ? "laptopRefused" : "gatewayForeign", CLOSE.subprotocol, "another subprotocol");
    } else if (side === "laptop") {
      this.dial("gateway", this.gatewayUrl);
    } else {
      this.openedAt = Date.now();
      this.expect(FIRST_MESSAGE_MS_MAX, "gatewaySilent", CLOSE.silent, "no first message in time");
      for (const data of this.held) this.send(ws, "up", data);
      this.held = [];
      page.show();
    }
  }

  pass(from, data) {
    if (from === "gateway") {
      if (!this.heard) {
        this.heard = true;
        page.show();
      }
      clearTimeout(this.timer);
      this.send(this.laptop, "down", data);
    } else if (this.gateway && this.gateway.readyState === WebSocket.OPEN) {
      this.send(this.gateway, "up", data);
    } else {
      this.hold(data);
    }
  }

  hold(data) {
    this.heldBytes += sizeOf(data);
    this.held.push(data);
    if (this.held.length > HELD_MESSAGES_MAX || this.heldBytes > HELD_BYTES_MAX) {
      this.end("laptopOverrun", CLOSE.overrun, "too much before the gateway was there");
    }
  }

  send(ws, direction, data) {
    ws.send(data);
    count[direction].bytes += sizeOf(data);
    count[direction].messages += 1;
  }

  closed(side, event) {
    const wasOpen = side === "laptop" ? this.gateway !== null : this.openedAt !== null;
    const failure = event.code === REPLACED
      ? "replaced"
      : side === "laptop"
        ? (wasOpen ? "laptopLost" : "laptopRefused")
        : event.code === POLICY && TOKEN_REASONS.includes(event.reason)
          ? "gatewayToken"
          : (wasOpen ? "gatewayLost" : unreachable(this.gatewayUrl));
    this.lastClose = { side, code: event.code, reason: event.reason };
    this.end(failure, wasOpen ? codeToPassOn(event.code) : CLOSE.unreachable, event.reason || (wasOpen ? "" : "not reached"));
  }

  // Closes whatever is open with the code, once.
  end(failure, code, reason) {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.timer);
    this.held = [];
    for (const ws of [this.laptop, this.gateway]) {
      if (ws && ws.readyState < WebSocket.CLOSING) ws.close(code, cutReason(reason || ""));
    }
    this.ended(failure);
  }

  stateOf(side) {
    const ws = this[side];
    if (this.over || !ws) return "closed";
    return ["connecting", "connected", "closed", "closed"][ws.readyState];
  }

  buffered(side) {
    return this[side] && !this.over ? this[side].bufferedAmount : 0;
  }
}

const count = {
  up: { bytes: 0, messages: 0, seen: 0, rate: 0 },
  down: { bytes: 0, messages: 0, seen: 0, rate: 0 },
};

// Keeps a session running for as long as the person wants one.
const keeper = {
  wanted: false,
  session: null,
  failure: null,     // key of FAILURES, while the last try's reason still matters
  lastClose: null,
  gatewayUrl: "",
  tries: 0,          // since the gateway was last heard: chooses the subprotocol
  backoff: 0,        // since the last steady connection: chooses the delay
  dialled: 0,
  nextAt: 0,
  timer: 0,
  turn: 0,           // a start or stop outdates what is still being fetched

  start() {
    this.wanted = true;
    this.failure = null;
    this.tries = this.backoff = 0;
    this.connect();
    wake.follow();
  },

  stop() {
    this.wanted = false;
    this.failure = null;
    this.turn += 1;
    clearTimeout(this.timer);
    this.nextAt = 0;
    if (this.session) this.session.end(null, CLOSE.stopped, "stopped on the phone");
    wake.follow();
    page.show();
  },

  async connect() {
    const turn = ++this.turn;
    clearTimeout(this.timer);
    this.nextAt = 0;
    this.dialled += 1;
    page.show();
    const settings = await fetchSettings();
    if (turn !== this.turn) return;
    if (!settings) return this.ended(navigator.onLine === false ? "offline" : "laptopUnreachable");
    this.gatewayUrl = settings.gateway || "";
    if (!this.gatewayUrl) return this.ended("gatewayUnset");
    if (location.protocol === "https:" && this.gatewayUrl.startsWith("ws:")) return this.ended("gatewayMixed");
    const text = settings.base64 || this.tries % TRIES_A_BASE64 === TRIES_A_BASE64 - 1;
    const laptopUrl = (location.protocol === "https:" ? "wss://" : "ws://") + location.host + PATH;
    this.session = new Session(laptopUrl, this.gatewayUrl, text ? BASE64 : BINARY, (failure) => this.ended(failure));
    if (this.session.over) this.session = null;
    page.show();
  },

  ended(failure) {
    const session = this.session;
    this.session = null;
    if (session) {
      this.tries = session.heard ? 0 : this.tries + 1;
      if (session.openedAt && Date.now() - session.openedAt > STEADY_MS) this.backoff = 0;
      this.lastClose = session.lastClose || this.lastClose;
    }
    this.failure = failure;
    if (failure === "replaced") {
      // Two that both dialled again would push each other out for ever.
      this.wanted = false;
      wake.follow();
    }
    if (this.wanted) this.retryLater();
    page.show();
  },

  // Exponential, with jitter, so that the phones of a gateway that restarts do not all come at once.
  retryLater() {
    const ms = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.backoff) * (0.5 + Math.random() / 2);
    this.backoff = Math.min(this.backoff + 1, 10);
    this.nextAt = Date.now() + ms;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), ms);
  },

  // The network or the page is back: what waited need not wait any longer.
  hurry() {
    if (this.wanted && this.nextAt) this.connect();
    wake.follow();
  },
};

// The laptop's word goes first; the URL's fragment (#gateway=…&base64=1) serves where the laptop names no gateway.
async function fetchSettings() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), CONNECT_MS_MAX);
  try {
    const response = await fetch(SETTINGS_PATH, { cache: "no-store", signal: abort.signal });
    const told = response.ok ? await response.json() : {};
    return {
      gateway: told.gateway || fragment.get("gateway"),
      base64: told.base64 === true || fragment.get("base64") === "1",
    };
  } catch {
    return null;
  } finally {
    clearTimeout(timer);
  }
}

// The screen stays on while the page relays, where the browser lets us (only pages that came over TLS may ask).
const wake = {
  lock: null,
  async follow() {
    if (!navigator.wakeLock) return;
    if (!keeper.wanted) {
      if (this.lock) this.lock.release();
      this.lock = null;
    } else if (document.visibilityState === "visible" && (!this.lock || this.lock.released)) {
      // It may be refused, when the battery is low for one; the hint on the page says what to do.
      this.lock = await navigator.wakeLock.request("screen").catch(() => null);
      if (!keeper.wanted) this.follow(); // stopped meanwhile
    }
  },
};

const $ = (id) => document.getElementById(id);

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text; // unchanged text is not announced again
}

function bytesText(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 999.5 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${unit === 0 || bytes >= 99.5 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

// Figure and unit apart: the figure is what is looked at.
function rateText(bytesPerSecond) {
  const bits = bytesPerSecond * 8;
  if (bits >= 1e6) return [(bits / 1e6).toFixed(bits < 1e8 ? 1 : 0), "Mbit/s"];
  return [bits > 0 && bits < 1e4 ? (bits / 1e3).toFixed(1) : Math.round(bits / 1e3), "kbit/s"];
}

function timeText(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (n) => String(n).padStart(2, "0");
  return `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}

// What the person sees; it follows the keeper's state and holds none of its own.
const page = {
  begin() {
    for (const element of document.querySelectorAll("[data-text]")) element.textContent = TEXTS[element.dataset.text];
    $("toggle").addEventListener("click", () => (keeper.wanted ? keeper.stop() : keeper.start()));
    let last = Date.now();
    setInterval(() => {
      const now = Date.now();
      for (const way of Object.values(count)) {
        way.rate = way.rate / 2 + (way.bytes - way.seen) * 1000 / Math.max(now - last, 1) / 2;
        if (way.rate < 1) way.rate = 0;
        way.seen = way.bytes;
      }
      last = now;
      this.show();
    }, TICK_MS);
  },

  show() {
    const session = keeper.session;
    const laptop = session ? session.stateOf("laptop") : "closed";
    const gateway = session ? session.stateOf("gateway") : "closed";
    // Open sockets alone do not carry anything yet: something between may hold the gateway's messages back.
    const joined = laptop === "connected" && gateway === "connected" && session.heard;
    const whole = joined ? "connected" : !keeper.wanted ? "stopped" : keeper.nextAt ? "waiting" : "connecting";
    const failure = joined ? null : keeper.failure;
    // A try after a failure is no news yet: the headline stays, so that neither eye nor screen reader is nagged.
    const headline = TEXTS.headline[whole === "connecting" && failure ? "waiting" : whole];
    this.node("laptop", laptop, failure);
    this.node("gateway", gateway, failure);
    $("page").dataset.state = whole;
    this.state("phone-state", joined ? "connected" : whole === "connecting" ? "connecting" : "closed",
      joined ? TEXTS.relaying : this.resting());
    setText($("headline"), headline);
    document.title = `${headline} · wstether`;
    this.problem(failure);
    this.progress(whole, session);
    this.figures(session);
    $("toggle").dataset.action = keeper.wanted ? "stop" : "start";
    setText($("toggle"), keeper.wanted ? TEXTS.stop : TEXTS.start);
  },

  node(side, state, failure) {
    const trouble = state === "closed" && Boolean(failure) && failure.startsWith(side);
    this.state(`${side}-state`, state, state === "closed" && !trouble ? this.resting() : TEXTS[state]);
    $(`${side}-state`).toggleAttribute("data-trouble", trouble);
    $(`${side}-wire`).dataset.state = state;
  },

  resting() {
    return keeper.wanted ? TEXTS.idle : TEXTS.paused;
  },

  state(id, state, text) {
    $(id).dataset.state = state;
    setText($(id).querySelector(".state"), text);
  },

  problem(failure) {
    $("problem").hidden = !failure;
    $("problem").dataset.failure = failure || "";
    if (!failure) return;
    const [what, todo] = FAILURES[failure];
    const reason = ["gatewayLost", "laptopLost"].includes(failure) && keeper.lastClose && keeper.lastClose.reason;
    setText($("what"), what);
    setText($("todo"), fill(todo, { gateway: keeper.gatewayUrl, https: keeper.gatewayUrl.replace(/^wss:/, "https:") }) + (reason ? `\n${fill(TEXTS.said, { reason })}` : ""));
  },

  progress(whole, session) {
    const seconds = Math.max(0, Math.ceil((keeper.nextAt - Date.now()) / 1000));
    setText($("uptime"), {
      connected: session && fill(TEXTS.uptime, { time: timeText(Date.now() - session.openedAt) }),
      connecting: keeper.failure ? TEXTS.trying : "",
      waiting: fill(TEXTS.again, { seconds }),
      stopped: TEXTS.pressStart,
    }[whole]);
  },

  figures(session) {
    for (const [direction, way] of Object.entries(count)) {
      const [figure, unit] = rateText(way.rate);
      setText($(`rate-${direction}`).children[0], String(figure));
      setText($(`rate-${direction}`).children[1], unit);
      setText($(`bytes-${direction}`), fill(TEXTS.total, { bytes: bytesText(way.bytes) }));
      $(`bytes-${direction}`).dataset.bytes = way.bytes;
    }
    const up = session ? session.buffered("gateway") : 0;
    const down = session ? session.buffered("laptop") : 0;
    $("waiting").hidden = up + down < BUFFERED_BYTES_SHOWN;
    setText($("waiting"), fill(TEXTS.waitingBytes, { bytes: bytesText(up + down) }));
    setText($("buffered"), `${bytesText(up)} / ${bytesText(down)}`);
    setText($("messages"), `${count.up.messages} / ${count.down.messages}`);
    setText($("gateway-url"), keeper.gatewayUrl || "–");
    if (session) setText($("subprotocol"), session.subprotocol);
    setText($("attempts"), String(keeper.dialled));
    $("attempts").dataset.count = keeper.dialled;
    const last = keeper.lastClose;
    if (last) {
      const values = { code: last.code, side: TEXTS[last.side], reason: last.reason };
      setText($("last-close"), fill(last.reason ? TEXTS.codeReason : TEXTS.code, values));
    }
  },
};

page.begin();
addEventListener("online", () => keeper.hurry());
addEventListener("pageshow", () => keeper.hurry());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && keeper.hurry());
keeper.start();
