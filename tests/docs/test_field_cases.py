"""docs/field-cases.md has fifty cases, each held by tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.server.process import ROOT

ROWS = re.findall(r"^\| (\d+) \|(.+)\|$", (ROOT / "docs/field-cases.md").read_text(), re.MULTILINE)
NAME = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


@cache
def found_in(path: str) -> set[str]:
    """Return the names of a file's test functions, those of a class as `Class::test_name`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = (m for m in members if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef))
        found |= {prefix + m.name for m in functions if m.name.startswith("test_")}
    return found


def test_there_are_fifty_cases_in_order() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 51))


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[number for number, _ in ROWS])
def test_each_case_is_held_by_tests_that_exist(number: str, row: str) -> None:
    held_by = NAME.findall(row.split(" | ")[-1])
    assert held_by
    assert [f"{path}::{name}" for path, name in held_by if name not in found_in(path)] == []
