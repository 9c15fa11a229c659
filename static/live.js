/* Live updates: one WebSocket a page, and what keeps it honest.

   The server sends three kinds of messages, each with its own time `at`:
   state      the whole present text of the page's topics; `seqs` is how far that is
   fragments  elements of one topic that have changed; `seq` counts the topic's messages
   beat       each 2.5 s: how far the topics are

   Every element carries its whole text, so a number that was seen already is dropped, and one that
   was missed heals with the next state, which is asked for. htmx does the swapping. The socket is
   not its ws extension's: that hides the WebSocket which the watchdog has to give up. */
(() => {
  "use strict";

  const topics = (document.body.dataset.liveTopics || "").trim();
  if (!topics) return;

  const SILENCE_MS = 6000;      // two beats and some: the line is dead
  const CONNECT_MS = 5000;      // a handshake takes longer: give it up
  const BEHIND_MS = 700;        // a beat may overtake the message that it counts
  const RESYNC_EVERY_MS = 2000;
  const NOTICE_AFTER_MS = 10000;
  const POLL_AFTER_MS = 30000;
  const POLL_EVERY_MS = 15000;
  const LONGEST_WAIT_MS = 15000;
  const BAD_REQUEST = 4400, SIGNED_OUT = 4401;

  const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}` +
    `/ws/live/?topics=${encodeURIComponent(topics)}`;

  let socket = null;
  let startedAt = 0;            // of this attempt
  let heardAt = Date.now();     // over the line; the page itself is the first news
  let freshAt = heardAt;        // how old the text is that the page shows
  let serverTime = "";
  let live = false;             // a state came over this socket
  let attempts = 0;
  let retryAt = 0;
  let givenUp = false;
  let leaving = false;
  let polledAt = 0;
  let resyncedAt = 0;
  let behindSince = 0;
  let seqs = {};
  let newest = {};

  /* ---- the socket ---- */

  function connect() {
    drop();
    startedAt = Date.now();
    retryAt = 0;
    const mine = socket = new WebSocket(url);
    mine.onopen = () => { heardAt = Date.now(); };
    mine.onmessage = (event) => { heardAt = freshAt = Date.now(); take(JSON.parse(event.data)); };
    mine.onclose = (event) => { socket = null; closed(event.code); };
  }

  /* Forget the socket at once. A line that swallows everything never finishes its closing
     handshake, and Chromium queues new sockets behind one that is stuck in connecting. */
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
    const most = Math.min(LONGEST_WAIT_MS, 1000 * 2 ** Math.min(attempts, 6));
    attempts += 1;
    retryAt = Date.now() + 100 + Math.random() * most;
    setTimeout(tick, retryAt - Date.now());
    show();
  }

  function retryNow() {
    if (!live && !givenUp && !leaving && !(socket && Date.now() - startedAt < 1000)) {
      attempts = 0;
      connect();
    }
  }

  function resync() {
    if (!live || Date.now() - resyncedAt < RESYNC_EVERY_MS) return;
    resyncedAt = Date.now();
    socket.send('{"resync": true}');
  }

  function signIn() {
    leaving = true;
    const login = document.body.dataset.loginUrl || "/login/";
    location.assign(`${login}?next=${encodeURIComponent(location.pathname + location.search)}`);
  }

  /* ---- messages ---- */

  function take(message) {
    serverTime = message.at;
    if (message.type === "state") takeState(message);
    else if (message.type === "fragments") takeFragments(message);
    else if (message.type === "beat") newest = message.seqs;
    watchGap();
    show();
  }

  function takeState(message) {
    if (!live) attempts = 0;
    live = true;
    seqs = { ...seqs, ...message.seqs };
    newest = { ...newest, ...message.seqs };
    behindSince = 0;
    const parts = parse(message.html);
    apply(parts);
    reread(parts);
  }

  function takeFragments(message) {
    const last = seqs[message.topic];
    if (last === undefined || message.seq <= last) return; // the state had it, or will have it
    seqs[message.topic] = message.seq;
    apply(parse(message.html));
    if (message.seq > last + 1) resync();
  }

  function watchGap() {
    const behind = Object.keys(newest).some((t) => t in seqs && newest[t] > seqs[t]);
    if (!behind) behindSince = 0;
    else if (!behindSince) { behindSince = Date.now(); setTimeout(watchGap, BEHIND_MS + 10); }
    else if (Date.now() - behindSince >= BEHIND_MS) { behindSince = 0; resync(); }
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
    const here = target(part);
    // htmx would report what has no place here as an error; it is none.
    if (!here) return false;
    // The same text again is no reason to disturb a selection; but it may be said twice.
    return part.getAttribute("hx-swap-oob") !== "innerHTML" || here.innerHTML !== part.innerHTML
      || here.matches("[role=status], [role=alert]");
  }

  function apply(parts) {
    const html = parts.filter(wanted).map((part) => part.outerHTML).join("");
    if (!html) return;
    // The focus stays where it was: htmx finds it by id, and switchboard.js what htmx does not.
    htmx.swap(document.body, html, { swapStyle: "none", swapDelay: 0, settleDelay: 0 });
  }

  /* A state names every place that the page should have. Where rows are missing or too many, or a
     panel shows as running what has ended while nobody listened, read them from the page itself. */
  function reread(parts) {
    const told = new Set(parts.map((part) => part.id));
    if (rowsDiffer(told) || panelsEnded(told)) readPage();
  }

  function rowsDiffer(told) {
    const hosts = document.getElementById("hosts");
    if (!hosts || !(seqs.board >= 0)) return false;
    const isRow = (id) => /^host-.+-state$/.test(id);
    const here = [...hosts.querySelectorAll("[id]")].map((e) => e.id).filter(isRow);
    return here.some((id) => !told.has(id)) || [...told].filter(isRow).length !== here.length;
  }

  function panelsEnded(told) {
    return [...document.querySelectorAll("#switches > [data-state=busy][id^=switch-]")]
      .some((panel) => !told.has(`${panel.id}-rail`) && !told.has(panel.id));
  }

  const PLACES = ["board-summary", "hosts", "switches", "events", "audit-new"];
  const PARTS = /^(host-.+-(state|sentence|warnings|vramsum|bar|resident)|switch-\d+-(rail|clock))$/;

  /* The page over plain HTTP: what its live places hold goes into the same places here. */
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

  /* ---- what is said of the line ---- */

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

  /* In place, above the page's own text; gone again when the line is back. */
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
      if (now - startedAt > CONNECT_MS) retryLater();
    } else if (now - Math.max(heardAt, startedAt) > SILENCE_MS) {
      attempts = 1;
      connect();
    }
    if (!live && now - heardAt > POLL_AFTER_MS && now - polledAt > POLL_EVERY_MS) {
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
