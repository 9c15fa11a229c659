"""Ask servers for what decides how much memory their models take, once for each model."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from switcher.domain.clock import Clock, system
from switcher.domain.observed import Installed
from switcher.ollama.client import Ollama
from switcher.ollama.errors import OllamaError
from switcher.queries.memory import without_facts
from switcher.records.memory import keep_facts

log = logging.getLogger(__name__)


def learn_facts(ollama: Ollama, models: Iterable[Installed], clock: Clock = system) -> None:
    """Keep the facts of these models that are not known yet. A plan does without what a server does
    not tell."""
    rows = {row.digest: row for row in models if not row.is_cloud}
    for digest in without_facts(rows):
        try:
            facts = ollama.facts(rows[digest].name.full)
        except OllamaError as exc:
            log.info("%s was not described: %s", rows[digest].name, exc.text)
        else:
            keep_facts(digest, facts, clock.now())
