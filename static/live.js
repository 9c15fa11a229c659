/* Live updates: one WebSocket a page, and what makes it recover by itself.

   The server sends three kinds of messages, each with its own time `at`:
   state      the whole present text of the page's topics, first after each connection
   fragments  elements that have changed, each with its whole text
   beat       each 2.5 s: the connection is alive

   Where messages would be lost, the server closes the socket; the page connects again and gets the
   whole state. htmx does the swapping. The socket is not its ws extension's: that hides the
   WebSocket which the watchdog has to give up. */
(() => {
  "use strict";

  const topics = (document.body.dataset.liveTopics || "").trim();
  if (!topics) return;

  const MAX_SILENCE_MS = 6000;  // two beats and some: the connection is dead
  const CONNECT_TIMEOUT_MS = 5000;
  const NOTICE_AFTER_MS = 10000;
  const POLL_AFTER_MS = 30000;
  const POLL_INTERVAL_MS = 15000;
  const MAX_WAIT_MS = 15000;
  const BAD_REQUEST = 4400, SIGNED_OUT = 4401;

  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}` +
    `${document.body.dataset.liveUrl}?topics=${encodeURIComponent(topics)}`;

  let socket = null;
  let startedAt = 0;            // of this attempt
  let heardAt = Date.now();     // when something last came over the socket, or the page itself
  let freshAt = heardAt;        // when the server made what the page shows
  let serverTime = "";
  let live = false;             // this socket has brought a state
  let attempts = 0;
  let retryAt = 0;
  let givenUp = false;
  let leaving = false;
  let polledAt = 0;

  /* ---- the socket ---- */

  function connect() {
    drop();
    startedAt = Date.now();
    retryAt = 0;
    socket = new WebSocket(url);
    socket.onopen = () => { heardAt = Date.now(); };
    socket.onmessage = (event) => {
      heardAt = freshAt = Date.now();
      take(JSON.parse(event.data));
    };
    socket.onclose = (event) => { socket = null; closed(event.code); };
  }

  /* Forget the socket at once. A black hole never finishes its closing handshake, and Chromium
     queues new sockets behind one that is stuck in connecting. */
  function drop() {
    live = false;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    socket = null;
  }

  function closed(code) {
    live = false;
    if (leaving) return;
    if (code === SIGNED_OUT) return signIn();
    if (code === BAD_REQUEST) { givenUp = true; return show(); }
    retryLater();
  }

  function retryLater() {
    drop();
    // Full jitter: after a restart not all pages come back in the same moment.
    const longest = Math.min(MAX_WAIT_MS, 1000 * 2 ** Math.min(attempts, 6));
    attempts += 1;
    retryAt = Date.now() + 100 + Math.random() * longest;
    setTimeout(tick, retryAt - Date.now());
    show();
  }

  function retryNow() {
    if (!live && !givenUp && !leaving && !(socket && Date.now() - startedAt < 1000)) {
      attempts = 0;
      connect();
    }
  }

  function signIn() {
    leaving = true;
    location.assign(`${document.body.dataset.loginUrl}?next=${encodeURIComponent(location.pathname + location.search)}`);
  }

  /* ---- messages ---- */

  function take(message) {
    serverTime = message.at;
    if (message.type === "state") takeState(parse(message.html));
    else if (message.type === "fragments") apply(parse(message.html));
    show();
  }

  function takeState(parts) {
    if (!live) attempts = 0;
    live = true;
    apply(parts);
    reread(parts);
  }

  /* ---- the page ---- */

  function parse(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return [...template.content.children];
  }

  /* `innerHTML` by id, `outerHTML` by id, or `afterbegin:#id`. */
  function target(part) {
    const how = part.getAttribute("hx-swap-oob") || "true";
    return how.includes(":") ? document.querySelector(how.slice(how.indexOf(":") + 1))
      : document.getElementById(part.id);
  }

  function wanted(part) {
    const unless = part.dataset.liveUnless;
    delete part.dataset.liveUnless;
    if (unless && document.querySelector(unless)) return false;
    const element = target(part);
    // For another page: htmx would report it as an error.
    if (!element) return false;
    // The same text again must not disturb a selection; but it may be announced twice.
    return part.getAttribute("hx-swap-oob") !== "innerHTML" || element.innerHTML !== part.innerHTML
      || element.matches("[role=status], [role=alert]");
  }

  function apply(parts) {
    const html = parts.filter(wanted).map((part) => part.outerHTML).join("");
    if (!html) return;
    // The focus stays where it was: htmx finds it by id, and switchboard.js what htmx does not.
    htmx.swap(document.body, html, { swapStyle: "none", swapDelay: 0, settleDelay: 0 });
  }

  /* A state names every place that the page should have. Where rows are missing or too many, or a
     panel still runs whose switch ended while the page was not connected, read the page itself. */
  function reread(parts) {
    const ids = new Set(parts.map((part) => part.id));
    if (rowsDiffer(ids) || panelsEnded(ids)) readPage();
  }

  function rowsDiffer(ids) {
    const hosts = document.getElementById("hosts");
    if (!hosts || !topics.split(/[ ,]+/).includes("board")) return false;
    const isRow = (id) => /^host-.+-state$/.test(id);
    const rows = [...hosts.querySelectorAll("[id]")].map((e) => e.id).filter(isRow);
    return rows.some((id) => !ids.has(id)) || [...ids].filter(isRow).length !== rows.length;
  }

  function panelsEnded(ids) {
    return [...document.querySelectorAll("#switches > [data-state=busy][id^=switch-]")]
      .some((panel) => !ids.has(`${panel.id}-rail`) && !ids.has(panel.id));
  }

  const PLACES = ["board-summary", "hosts", "switches", "recent-switches", "new-switches"];
  const PARTS = /^(host-.+-(state|sentence|warnings|vramsum|bar|resident)|switch-\d+-(rail|clock))$/;

  /* Read the page over plain HTTP, and copy the content of its live places. */
  async function readPage() {
    let answer;
    try {
      answer = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(10000) });
    } catch { return; } // the server is away; the chip says so
    if (answer.redirected && new URL(answer.url).pathname !== location.pathname) return signIn();
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const parts = [...page.querySelectorAll("[id]")].filter(place);
    for (const part of parts) part.setAttribute("hx-swap-oob", "innerHTML");
    freshAt = Date.now();
    apply(parts);
    show();
  }

  function place(element) {
    if (PLACES.includes(element.id)) return true;
    return PARTS.test(element.id) && !element.closest("#hosts, #switches");
  }

  /* ---- the state of the connection ---- */

  function age() { return Math.max(0, Math.round((Date.now() - freshAt) / 1000)); }

  function words(seconds) {
    return seconds < 60 ? `${seconds}\u00a0s` : `${Math.floor(seconds / 60)}\u00a0min`;
  }

  let shown = "";

  function show() {
    const chip = document.getElementById("live-state");
    const clock = serverTime.slice(11, 19);
    const state = live ? "on" : givenUp ? "none" : "lost";
    const text = live ? clock : givenUp ? "No live updates · reload to update"
      : attempts || age() > 3 ? `Reconnecting · ${words(age())} old` : "Connecting";
    notice();
    if (!chip || shown === state + text) return;
    shown = state + text;
    chip.dataset.state = state;
    chip.replaceChildren(icon({ on: "active", lost: "stale", none: "idle" }[state]));
    if (live) chip.append("Live · ", time(serverTime, clock));
    else chip.append(text);
  }

  function icon(name) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("class", "ic");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS(space, "use");
    use.setAttribute("href", `#s-${name}`);
    svg.append(use);
    return svg;
  }

  function time(iso, text) {
    const element = document.createElement("time");
    element.dateTime = iso;
    const zone = document.createElement("span");
    zone.className = "tz";
    zone.textContent = "\u00a0UTC";
    element.append(text, zone);
    return element;
  }

  /* Shown above the page's own text until the connection is back. */
  function notice() {
    const lost = !live && !givenUp && Date.now() - heardAt >= NOTICE_AFTER_MS;
    let box = document.getElementById("live-lost");
    if (!lost) {
      if (box) { box.remove(); say("Live updates are back."); }
      return;
    }
    if (!box) {
      box = makeNotice();
      document.getElementById("main").prepend(box);
      say("Live updates stopped. What the page shows may be old.");
    }
    const wait = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    const next = retryAt && !socket ? `Trying again in ${words(wait)}.` : "Trying again now.";
    const text = ` What you see is ${words(age())} old. ${next} Switches go on without this page.`;
    const rest = box.querySelector("span");
    if (rest.textContent !== text) rest.textContent = text;
  }

  function makeNotice() {
    const box = document.createElement("div");
    box.className = "notice";
    box.id = "live-lost";
    box.dataset.state = "warning";
    const strong = document.createElement("strong");
    strong.textContent = `Live updates stopped at ${new Date(heardAt).toISOString().slice(11, 19)} UTC.`;
    const line = document.createElement("p");
    line.append(strong, document.createElement("span"));
    const reload = document.createElement("a");
    reload.id = "live-lost-reload";
    reload.href = location.href;
    reload.textContent = "Reload";
    box.append(icon("stale"), line, reload);
    return box;
  }

  function say(sentence) {
    const announcer = document.getElementById("announcer");
    if (announcer) announcer.textContent = sentence;
  }

  /* ---- the watchdog ---- */

  function tick() {
    if (givenUp || leaving) return;
    const now = Date.now();
    if (!socket) {
      if (now >= retryAt) connect();
    } else if (socket.readyState === WebSocket.CONNECTING) {
      if (now - startedAt > CONNECT_TIMEOUT_MS) retryLater();
    } else if (now - Math.max(heardAt, startedAt) > MAX_SILENCE_MS) {
      attempts = 1;
      connect();
    }
    if (!live && now - heardAt > POLL_AFTER_MS && now - polledAt > POLL_INTERVAL_MS) {
      polledAt = now;
      readPage();
    }
    show();
  }

  setInterval(tick, 1000);
  addEventListener("online", retryNow);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { tick(); retryNow(); } });
  addEventListener("pagehide", () => { leaving = true; drop(); });
  addEventListener("pageshow", (event) => { if (event.persisted) { leaving = false; connect(); } });
  connect();
})();
