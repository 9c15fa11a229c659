"""Every "fact 9" and "rule 3" in the tree names a heading that exists.

Facts are the headings of docs/ollama-facts.md, rules those of docs/switching-rules.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"fact": "docs/ollama-facts.md", "rule": "docs/switching-rules.md"}
FOLDERS = ("switcher", "ollama_simulator", "project", "tests", "docs", "templates", "static")
SUFFIXES = {".py", ".html", ".js", ".md"}

# True and worth knowing, though no line of code depends on them alone.
MAY_BE_UNCITED = {"fact": frozenset[int](), "rule": frozenset({5, 10})}

HEADING = re.compile(r"^### (Fact|Rule) (\d+) — \S", re.MULTILINE)
# A citation may be wrapped, also inside a comment.
GAP = r"[\s\#*/]"
NUMBER = r"\d{1,3}(?!\w|\.\d)"
# The 30 of "fact 7, 30 s" is not cited.
UNIT = r"\s*(?:%|(?:ms|s|seconds|min|minutes|h|hours|days|kB|MB|GB|times|of)\b)"
IN_PROSE = re.compile(
    rf"""
    \b (fact|rule) s? {GAP}+
    (
        {NUMBER}
        (?:
            (?: {GAP}* , {GAP}* (?: (?:and|or) {GAP}+ )? | {GAP}+ (?:and|or) {GAP}+ | [–-] )
            {NUMBER} (?! {UNIT} )
        )*
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
AS_MARKER = re.compile(r"\bmark\.(fact)\(([\d,\s]+)\)")
NUMBERS = re.compile(r"(\d+)(?:[–-](\d+))?")


class Citation(NamedTuple):
    """One cited number: kind is "fact" or "rule"."""

    kind: str
    number: int
    line: int


def read_citations(text: str) -> Iterator[Citation]:
    """Yield each number that a text cites; a range such as `facts 21–24` yields all of its numbers.
    Headings define and cite nothing."""
    text = HEADING.sub("", text)
    for pattern in (IN_PROSE, AS_MARKER):
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            for first, last in NUMBERS.findall(match[2]):
                for number in range(int(first), int(last or first) + 1):
                    yield Citation(match[1].lower(), number, line)


@cache
def all_citations() -> dict[str, list[Citation]]:
    """Return the citations of each file, by its path. This file, whose citations are examples, is
    left out."""
    found = {}
    for path in _files():
        text = path.read_text(encoding="utf-8")
        found[path.relative_to(ROOT).as_posix()] = list(read_citations(text))
    return found


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file() and path != Path(__file__):
                yield path


def headings(kind: str) -> list[int]:
    """Return the numbers that a page defines, in their order."""
    text = (ROOT / PAGES[kind]).read_text(encoding="utf-8")
    return [int(number) for name, number in HEADING.findall(text) if name.lower() == kind]


@pytest.mark.parametrize(("kind", "count"), [("fact", 31), ("rule", 11)])
def test_the_headings_are_numbered_without_gaps(kind: str, count: int) -> None:
    assert headings(kind) == list(range(1, count + 1))


@pytest.mark.parametrize("kind", PAGES)
def test_every_cited_number_is_a_heading(kind: str) -> None:
    known = set(headings(kind))
    unknown = [
        f"{path}:{cited.line}: {kind} {cited.number}"
        for path, citations in all_citations().items()
        for cited in citations
        if cited.kind == kind and cited.number not in known
    ]
    assert not unknown, f"not in {PAGES[kind]}:\n" + "\n".join(unknown)


@pytest.mark.parametrize("kind", PAGES)
def test_every_heading_is_cited_outside_of_docs(kind: str) -> None:
    cited = {
        cited.number
        for path, citations in all_citations().items()
        for cited in citations
        if cited.kind == kind and not path.startswith("docs/")
    }
    assert set(headings(kind)) - cited - MAY_BE_UNCITED[kind] == set()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("(fact 9)", [9]),
        ("Fact 16: an embedding model", [16]),
        ("# Facts 1, 2, 4: the 200 says", [1, 2, 4]),
        ("(facts 21, 23, and 24)", [21, 23, 24]),
        ("Facts 1 and 24.", [1, 24]),
        ("fact 21, 23", [21, 23]),
        ("fact 14: it may go, and fact 15: not come back", [14, 15]),
        ("facts 21–24", [21, 22, 23, 24]),
        ("@pytest.mark.fact(9)", [9]),
        ("mark.fact(12, 13)", [12, 13]),
        ("    # so says fact\n    # 12, and\n", [12]),
        ("(facts 1,\n    # 2 and 3)", [1, 2, 3]),
        ("fact 120", [120]),
        ("see [fact 9](ollama-facts.md)", [9]),
    ],
)
def test_a_citation_is_read_in_every_spelling(text: str, numbers: list[int]) -> None:
    found = list(read_citations(text))
    assert [cited.number for cited in found] == numbers
    assert {cited.kind for cited in found} == {"fact"}


@pytest.mark.parametrize(
    "text",
    [
        'append(kind, facts={"n": 5})',
        "fact(n): the measured fact",
        "facts = {5: 6}",
        "artefact 3",
        "violate(rule, 3)",
        "--rule: 1px",
        "rule 3a",
        "rule 3.5",
        "### Fact 3 — A heading",
    ],
)
def test_other_text_is_no_citation(text: str) -> None:
    assert list(read_citations(text)) == []


@pytest.mark.parametrize(
    ("text", "number"), [("fact 7, 30 s later", 7), ("fact 9, 120 seconds", 9), ("rule 7, 60 %", 7)]
)
def test_a_quantity_after_a_citation_is_not_part_of_it(text: str, number: int) -> None:
    assert [cited.number for cited in read_citations(text)] == [number]
