// Keeps times up to date by the server's clock, and keeps the focus where it was when a part of the
// page is replaced. Every page also works without it.
"use strict";

(() => {
  const NBSP = "\u00a0";
  const offset = Date.parse(document.body.dataset.now) - Date.now();
  const now = () => Date.now() + offset;

  // ---- times: the same words as switcher/panel/filters.py ----

  function coarse(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < 60) return `${whole}${NBSP}s`;
    if (whole < 3600) return `${Math.floor(whole / 60)}${NBSP}min`;
    if (whole < 48 * 3600) return `${Math.floor(whole / 3600)}${NBSP}h`;
    return `${Math.floor(whole / 86400)}${NBSP}days`;
  }

  function span(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole}${NBSP}s`;
    if (whole < 600 && whole % 60) return `${Math.floor(whole / 60)}${NBSP}min ${whole % 60}${NBSP}s`;
    return coarse(whole);
  }

  function left(expected, elapsed) {
    if (elapsed < expected) return `about ${span(expected - elapsed)} left`;
    return `longer than usual (${span(expected)})`;
  }

  function words(time, at) {
    const passed = (at - Date.parse(time.dateTime)) / 1000;
    if ("relative" in time.dataset) return `${coarse(passed)} ago`;
    if ("countdown" in time.dataset) return coarse(-passed);
    if ("left" in time.dataset) return left(Number(time.dataset.left), passed);
    return span(passed); // elapsed
  }

  const TICKING = "time[data-relative], time[data-countdown], time[data-left], time[data-elapsed]";

  function tick() {
    const at = now();
    for (const time of document.querySelectorAll(TICKING)) {
      const text = words(time, at);
      if (time.textContent !== text) time.textContent = text;
    }
    for (const bar of document.querySelectorAll("progress[data-began]")) {
      bar.value = Math.min(bar.max, (at - Date.parse(bar.dataset.began)) / 1000);
    }
  }

  // ---- focus: back to the same id, otherwise to the heading of its panel ----

  let focused = null;

  function remember(event) {
    const panel = event.target.closest("section[id], section[aria-labelledby]");
    focused = {
      element: event.target,
      id: event.target.id,
      heading: panel ? panel.getAttribute("aria-labelledby") : null,
    };
  }

  function restoreFocus() {
    if (!focused || focused.element.isConnected || document.activeElement !== document.body) return;
    const again = (focused.id && document.getElementById(focused.id))
      || (focused.heading && document.getElementById(focused.heading))
      || document.getElementById("main");
    focused = null;
    if (again) again.focus({ preventScroll: true });
  }

  function focusOn(id) {
    const element = document.getElementById(id);
    if (element) element.focus();
  }

  function focusHash() {
    if (/^#switch-\d+$/.test(location.hash)) focusOn(`${location.hash.slice(1)}-h`);
  }

  // ---- the plan: outdated as soon as other models are resident on its host ----

  let planned = null;

  function holdsOf(host) {
    const row = host && document.querySelector(`[data-holds][data-host="${CSS.escape(host)}"]`);
    return row ? row.dataset.holds : null;
  }

  function checkPlan() {
    const plan = document.getElementById("plan");
    const age = document.getElementById("plan-age");
    if (!plan || !age) return;
    if (!planned || planned.plan !== plan) {
      planned = { plan, host: plan.dataset.host, holds: holdsOf(plan.dataset.host) };
      return;
    }
    const holds = holdsOf(planned.host);
    if (!plan.querySelector("input[name=plan]") || !holds || holds === planned.holds) return;
    const text = `${planned.host} has changed since. Refresh the plan.`;
    if (age.textContent !== text) age.textContent = text;
  }

  /* A plan that arrives while a switch is being requested would remove the button, and with it the
     target of the answer: htmx finds it from the button. */
  let switchRequest = null;

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt.id === "plan-go") switchRequest = event.detail.xhr;
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    const { target, xhr } = event.detail;
    const isOther = switchRequest && xhr !== switchRequest;
    if (isOther && target && target.id === "plan") event.detail.shouldSwap = false;
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.detail.xhr === switchRequest) switchRequest = null;
  });

  // ---- lists and pages that say when there is something newer ----

  function checkNewSwitches() {
    const list = document.getElementById("switch-list");
    const link = document.getElementById("new-switches-go");
    if (!list || !link) return;
    const count = Number(link.dataset.newest) - Number(list.dataset.shownNewest);
    if (count <= 0) return;
    const text = `${count} new switch${count === 1 ? "" : "es"}. Show ${count === 1 ? "it" : "them"}`;
    if (link.textContent !== text) link.textContent = text;
    if (link.hidden) link.hidden = false;
  }

  let reloading = false;

  function checkEnded() {
    const head = document.querySelector("[data-reload-after]");
    const panel = head && document.getElementById(head.dataset.reloadAfter);
    if (!panel || reloading || panel.dataset.state === "busy") return;
    reloading = true;
    htmx.ajax("GET", location.pathname, { target: "#main", select: "#main", swap: "outerHTML" })
      .finally(() => { reloading = false; });
  }

  function checkPage() {
    restoreFocus();
    checkPlan();
    checkNewSwitches();
    checkEnded();
  }

  // ---- the switch form next to the hosts ----

  function chooseHost(event) {
    const link = event.target.closest("[data-switch-host]");
    const select = document.getElementById("f-host");
    if (!link || !select || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    select.value = link.dataset.switchHost;
    select.dispatchEvent(new Event("change", { bubbles: true }));
    const heading = document.getElementById("quick-h");
    heading.scrollIntoView({ block: "nearest" });
    select.focus();
  }

  document.addEventListener("focusin", remember);
  document.addEventListener("click", chooseHost);
  document.body.addEventListener("focus-on", (event) => focusOn(event.detail.id));
  window.addEventListener("hashchange", focusHash);
  new MutationObserver(checkPage).observe(document.body, { childList: true, subtree: true });
  setInterval(tick, 1000);
  tick();
  checkPage();
  focusHash();
  focusOn("form-errors");
})();
