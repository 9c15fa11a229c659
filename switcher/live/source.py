"""Renders the feed's content with the same queries and templates as the pages."""

from __future__ import annotations

from collections.abc import Iterable

from django.conf import settings
from django.template.loader import render_to_string
from django.urls import reverse, set_script_prefix

from switcher.audit import health
from switcher.domain.clock import Clock, system
from switcher.domain.errors import NotFound
from switcher.domain.states import State
from switcher.live import fragments
from switcher.live.fragments import Part, Rendered
from switcher.presentation.board import Board
from switcher.presentation.board import board as read_board
from switcher.presentation.hosts import HostPage, HostView, host_page
from switcher.presentation.switches import SwitchView, switch_view
from switcher.queries.change_marker import change_marker
from switcher.watching.loop import latest

ROW_PARTS = ("state", "model", "vram", "meta", "note")
PAGE_PARTS = ("sentence", "warnings", "vramsum", "bar", "resident", "drifts")
# The person who requested the switch gets the panel in that response. All other pages wait a moment
# before they fetch theirs, so that the two do not conflict.
PANEL_AFTER = "load delay:250ms"

Parts = dict[str, Part]
States = dict[int, State]  # of switches, by id
Shown = tuple[Parts, tuple[SwitchView, ...]]


class PanelSource:
    """The source of the feed's content, called only from the feed's thread. Content is rendered
    once for everybody: pages fetch buttons themselves, as those depend on the user.
    """

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._states: dict[str, States] = {}

    def change_marker(self) -> object:
        """Return a value that changes once any process has changed something. One query."""
        return change_marker()

    def render(self, topics: frozenset[str]) -> Rendered:
        """Return the topics that exist, from one reading of the board. A switch's page needs one
        more query.
        """
        # A thread without a request does not know the base path of addresses.
        set_script_prefix(settings.FORCE_SCRIPT_NAME or "/")
        board = read_board(self._clock.now(), latest(), health.problems())
        shown = {t: s for t in topics if (s := self._shown(t, board)) is not None}
        texts = {t: self._announcements(t, views) for t, (_, views) in shown.items()}
        self._states = {t: {v.id: v.state for v in views} for t, (_, views) in shown.items()}
        return Rendered(
            fragments={t: parts for t, (parts, _) in shown.items()},
            announcements={t: text for t, text in texts.items() if text},
            shape={"board": " ".join(h.name for h in board.hosts)},
        )

    def _shown(self, topic: str, board: Board) -> Shown | None:
        try:
            return self._topic(topic, board)
        except NotFound:
            return None  # removed meanwhile, or never existed

    def _topic(self, topic: str, board: Board) -> Shown:
        kind, _, name = topic.partition("-")
        if kind == "board":
            return board_parts(board), board.panels
        if kind == "events":
            return events_parts(board), ()
        if kind == "host":
            panels = tuple(v for v in board.panels if v.host == name)
            return host_page_parts(host_page(name, board.now, latest()), panels), panels
        view = switch_view(int(name), board.now)
        return switch_page_parts(view), (view,)

    def _announcements(self, topic: str, views: tuple[SwitchView, ...]) -> str:
        before = self._states.get(topic)
        return "" if before is None else announce(before, views)


def announce(before: States, views: tuple[SwitchView, ...]) -> str:
    """Return fragments that announce to screen readers how states have changed since `before`."""
    regions: dict[str, list[SwitchView]] = {"announcer": [], "alarm": []}
    for view in views:
        if before.get(view.id) != view.state and (view.is_open or view.id in before):
            is_alarm = view.status_style == "failed" or view.restoring
            regions["alarm" if is_alarm else "announcer"].append(view)
    return "".join(
        fragments.inner(region, _render("announcements.html", switches=changed)).html
        for region, changed in regions.items()
        if changed
    )


def board_parts(board: Board) -> Parts:
    """Return the changing parts of the board, by key."""
    parts = {
        "summary": fragments.inner("board-summary", _render("board.html#summary", board=board)),
        "recent": fragments.inner("recent-switches", _render("board.html#recent", board=board)),
    }
    for host in board.hosts:
        parts |= {
            f"{host.name}-{part}": fragments.inner(
                f"host-{host.name}-{part}", _render(f"host_row.html#{part}", host=host)
            )
            for part in ROW_PARTS
        } | {f"{host.name}-ghosts": ghosts_part(host)}
    return parts | panels_parts(board.panels)


def events_parts(board: Board) -> Parts:
    """Return the number of the newest switch, for the list of switches, whose rows are not
    pushed."""
    newest = max((e.id for e in board.recent_switches), default=0)
    return {"new": fragments.inner("new-switches", _render("switches.html#new", newest=newest))}


def host_page_parts(host: HostPage, panels: tuple[SwitchView, ...]) -> Parts:
    """Return the changing parts of a host's page, by key."""
    parts = {
        part: fragments.inner(f"host-{host.name}-{part}", _render(f"host.html#{part}", host=host))
        for part in PAGE_PARTS
    }
    state = fragments.inner(f"host-{host.name}-state", _render("host_row.html#state", host=host))
    recent = fragments.inner("recent-switches", _render("host.html#recent", host=host))
    more = {"state": state, "recent": recent, "ghosts": ghosts_part(host)}
    return parts | more | panels_parts(panels)


def ghosts_part(host: HostView) -> Part:
    """Return the ghosts of a host without buttons. A page that does not show the same ghosts
    fetches them with its user's buttons."""
    html = _render("ghosts.html", host=host, pushed=True)
    element_id = f"host-{host.name}-ghosts"
    shown = f'#{element_id} [data-ghosts="{host.ghosts_mark}"]'
    return fragments.inner(element_id, html, unless=shown)


def panels_parts(views: Iterable[SwitchView]) -> Parts:
    """Return the panels under `#switches`: a new panel is inserted at the top, a running one is
    updated, and one that has ended is replaced."""
    parts: Parts = {}
    for view in reversed(tuple(views)):  # each is inserted first, so the newest one goes last
        parts[f"switch-{view.id}"] = _start(view) if view.is_open else _end(view)
        if view.is_open:
            parts |= running_parts(view)
    return parts


def running_parts(view: SwitchView) -> Parts:
    """Return the progress rail and the clock of a switch."""
    ids = {part: f"switch-{view.id}-{part}" for part in ("rail", "clock")}
    return {
        each: fragments.inner(each, _render(f"switch_panel.html#{part}", switch=view))
        for part, each in ids.items()
    }


def switch_page_parts(view: SwitchView) -> Parts:
    return running_parts(view) if view.is_open else {f"switch-{view.id}": _end(view)}


def _start(view: SwitchView) -> Part:
    """Return the panel without buttons; the page then fetches the one with its user's buttons."""
    own = f'hx-get="{panel_url(view.id)}" hx-trigger="{PANEL_AFTER}" hx-swap="outerHTML"'
    panel = fragments.with_attributes(_panel(view), own)
    return fragments.first_in("switches", panel, unless=f"#switch-{view.id}")


def _end(view: SwitchView) -> Part:
    panel = _panel(view)
    if view.needs_attention:  # some users have a button
        own = f'hx-get="{panel_url(view.id)}" hx-trigger="load" hx-swap="outerHTML"'
        panel = fragments.with_attributes(panel, own)
    # A page that does not show it as running knows already; its own page shows it differently.
    return fragments.whole(panel, unless=f'#switch-{view.id}:not([data-state="busy"])')


def panel_url(switch_id: int) -> str:
    """Return the address of a panel with the user's buttons."""
    return reverse("switch-panel", args=[switch_id])


def _panel(view: SwitchView) -> str:
    return _render("switch_panel.html", switch=view, user_can_switch=False).strip()


def _render(template: str, **facts: object) -> str:
    return render_to_string(template, facts)
