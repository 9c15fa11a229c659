"""Addresses of the pages; included at the root."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from switcher.panel.views import (
    account,
    audit,
    board,
    evidence,
    export,
    hosts,
    keys,
    profiles,
    switches,
)

urlpatterns = [
    path("", board.board, name="board"),
    path("plan", board.plan, name="plan"),
    path("switch", board.switch, name="switch"),
    path("switches/", switches.event_list, name="switches"),
    path("switches/<int:switch_id>/", switches.event, name="switch-event"),
    path("switches/<int:switch_id>/panel", switches.panel, name="switch-panel"),
    path("switches/<int:switch_id>/cancel", switches.cancel, name="switch-cancel"),
    path("switches/<int:switch_id>/seen", switches.seen, name="switch-seen"),
    path("profiles/", profiles.profile_list, name="profiles"),
    path("profiles/add", profiles.add, name="profile-add"),
    path("profiles/<slug:name>/edit", profiles.edit, name="profile-edit"),
    path("profiles/<slug:name>/delete", profiles.delete, name="profile-delete"),
    path("hosts/", hosts.host_list, name="hosts"),
    path("hosts/add", hosts.add, name="host-add"),
    path("hosts/probe", hosts.probe, name="host-probe"),
    path("hosts/<slug:name>/", hosts.host, name="host"),
    path("hosts/<slug:name>/edit", hosts.edit, name="host-edit"),
    path("hosts/<slug:name>/check", hosts.check, name="host-check"),
    path("hosts/<slug:name>/ghosts", hosts.ghosts, name="host-ghosts"),
    path("hosts/<slug:name>/free", hosts.free, name="host-free"),
    path("hosts/<slug:name>/remove", hosts.remove, name="host-remove"),
    path("keys/", keys.key_list, name="keys"),
    path("keys/add", keys.add, name="key-add"),
    path("keys/<int:key_id>/off", keys.turn_off, name="key-off"),
    path("audit/", audit.entry_list, name="audit"),
    path("audit/<int:seq>/", audit.entry, name="audit-entry"),
    path("audit/<int:seq>/proof.json", audit.proof, name="audit-proof"),
    path("audit/people/<path:name>/", audit.person, name="audit-person"),
    path("audit/hosts/<path:name>/", audit.host, name="audit-host"),
    path("audit/when/", audit.when, name="audit-when"),
    path("audit/review", audit.review, name="audit-review"),
    path("audit/download", export.export, name="audit-download"),
    path("audit/verify/", evidence.verify, name="audit-verify"),
    path("audit/verify/progress", evidence.progress, name="audit-verify-progress"),
    path("audit/key", evidence.public_key, name="audit-key"),
    path("audit/switchboard_verify.py", evidence.verifier, name="audit-verifier"),
    path("theme", account.theme, name="theme"),
    path("login/", account.SignIn.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("favicon.ico", account.favicon, name="favicon"),
]
