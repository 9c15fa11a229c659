"""The glossary has an entry for each class, state and kind that the product writes or shows."""

from __future__ import annotations

import ast
import re

import pytest
from django.apps import apps

from switcher.audit.filters import GROUPS
from switcher.domain.drift import Kind
from switcher.domain.states import State, Strategy
from tests.server.process import ROOT

GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TERMS = {t.strip(" `") for t in re.findall(r"^\| ([^|]+) \|", GLOSSARY, re.M)}

AREAS = {start.partition(".")[0] for starts in GROUPS.values() for start in starts}
KIND = re.compile(rf"({'|'.join(sorted(AREAS))})\.[a-z-]+")


def entry_kinds() -> set[str]:
    """The kinds of audit entries that the code writes, as their names stand in it."""
    kinds = {f"switch.{state.value}" for state in State}
    for folder in ("audit", "records", "switching", "watching"):
        for path in (ROOT / "switcher" / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and KIND.fullmatch(str(node.value)):
                    kinds.add(str(node.value))
    return kinds


@pytest.mark.parametrize(
    "model", [m.__name__ for m in apps.get_app_config("switcher").get_models()]
)
def test_each_class_of_the_model_is_in_the_glossary(model: str) -> None:
    assert model in TERMS


@pytest.mark.parametrize("name", [*(s.value for s in State), *(s.value for s in Strategy), *Kind])
def test_each_state_strategy_and_kind_of_drift_is_in_the_glossary(name: str) -> None:
    assert name in TERMS


@pytest.mark.parametrize("kind", sorted(entry_kinds()))
def test_each_kind_of_audit_entry_is_in_the_glossary(kind: str) -> None:
    assert kind in TERMS
