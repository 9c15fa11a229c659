from __future__ import annotations

from concurrent.futures import wait

import pytest

from tests.contract.server import Ollama, full
from tests.contract.spellings import INVALID, NEWER_SPELLINGS, OTHER, SAME, SPELLINGS

ACTIVE, GHOST, HANDLE = "contract-active", "contract-ghost", "contract-handle"

ANSWERS = {SAME: 200, OTHER: 404, INVALID: 400}


@pytest.mark.fact(20)
@pytest.mark.parametrize(("on_disk", "spelling", "meaning"), SPELLINGS)
def test_a_spelling_means_what_the_table_says(
    ollama: Ollama, on_disk: str, spelling: str, meaning: str
) -> None:
    """Fact 20."""
    ollama.copy(ollama.models.small_a, on_disk)
    assert ollama.unload(spelling).status_code == ANSWERS[meaning]


@pytest.mark.fact(20)
@pytest.mark.parametrize(("on_disk", "spelling", "meaning"), NEWER_SPELLINGS)
def test_a_newer_server_reads_blanks_and_places(
    ollama: Ollama, on_disk: str, spelling: str, meaning: str
) -> None:
    """Fact 20."""
    ollama.copy(ollama.models.small_a, on_disk)
    if ollama.unload(f"{on_disk} ").status_code != 200:
        pytest.skip("an older server")
    assert ollama.unload(spelling).status_code == ANSWERS[meaning]


@pytest.mark.fact(20)
def test_lists_leave_out_the_default_host_and_namespace(ollama: Ollama) -> None:
    """Fact 20: and keep the case of the name that came first."""
    ollama.copy(ollama.models.small_a, "https://registry.ollama.ai/library/Contract-Y:7B")
    ollama.copy(ollama.models.small_a, "contract-y:7b")
    ollama.copy(ollama.models.small_a, "hf.co/contract-anna/x:Q4_K_M")
    names = {name for name in ollama.digests() if "contract-" in name.lower()}
    assert names == {"Contract-Y:7B", "hf.co/contract-anna/x:Q4_K_M"}


@pytest.mark.fact(21)
def test_a_copy_has_its_sources_digest_and_shares_its_runner(ollama: Ollama) -> None:
    """Fact 21: a request to the copy loads nothing, and `/api/ps` keeps the first name."""
    model = ollama.models.a
    load = ollama.load(model)
    ollama.copy(model, ACTIVE)
    assert ollama.digest(ACTIVE) == ollama.digest(model)
    answer = ollama.generate(ACTIVE).json()
    assert answer["model"] == ACTIVE
    assert answer["load_duration"] < load["load_duration"] / 2
    assert ollama.names() == {full(model)}


@pytest.mark.fact(21)
def test_a_model_loaded_by_its_copy_is_listed_by_that_name(ollama: Ollama) -> None:
    """Fact 21: compare digests, never names."""
    model = ollama.models.small_a
    ollama.copy(model, ACTIVE)
    ollama.load(ACTIVE)
    ollama.generate(model)
    assert ollama.names() == {full(ACTIVE)}
    assert ollama.row(ACTIVE)["digest"] == ollama.digest(model)


@pytest.mark.fact(21)
@pytest.mark.parametrize("by_copy", [True, False])
def test_unloading_by_either_name_unloads_the_runner(ollama: Ollama, by_copy: bool) -> None:
    """Fact 21."""
    model = ollama.models.small_a
    ollama.copy(model, ACTIVE)
    ollama.load(model if by_copy else ACTIVE)
    ollama.unload(ACTIVE if by_copy else model)
    ollama.wait_gone(model if by_copy else ACTIVE)
    assert ollama.ps() == []


@pytest.mark.fact(21)
def test_a_copy_of_nothing_is_a_404(ollama: Ollama) -> None:
    """Fact 21."""
    answer = ollama.post("/api/copy", source="contract-nope", destination=ACTIVE)
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": 'model "contract-nope" not found'},
    )


@pytest.mark.fact(21)
def test_a_copy_answers_with_nothing_at_all(ollama: Ollama) -> None:
    """Fact 21: neither a body nor a type."""
    answer = ollama.post("/api/copy", source=ollama.models.small_a, destination=ACTIVE)
    assert (answer.status_code, answer.text) == (200, "")
    assert "Content-Type" not in answer.headers


@pytest.mark.fact(22)
def test_a_published_name_follows_each_copy_with_both_models_loaded(ollama: Ollama) -> None:
    """Fact 22: one stable name, and changing it loads nothing."""
    first, second = ollama.models.small_a, ollama.models.small_b
    for model in (first, second):
        ollama.load(model)
    for model in (first, second, first):
        ollama.copy(model, ACTIVE)
        assert ollama.digest(ACTIVE) == ollama.digest(model)
        answer = ollama.generate(ACTIVE, options={"num_predict": 3}).json()
        assert answer["done"] is True
        if ollama.simulated:
            assert answer["response"].startswith(f"[{model}] ")
    assert ollama.names() == {full(first), full(second)}


@pytest.mark.fact(23)
def test_a_name_that_points_elsewhere_leaves_a_ghost(ollama: Ollama) -> None:
    """Fact 23: it is listed under the same name with the old digest, but not reachable by it."""
    old, new = ollama.models.small_a, ollama.models.small_b
    ollama.copy(old, GHOST)
    ollama.load(GHOST, keep_alive=-1)
    ollama.copy(new, GHOST)
    assert ollama.unload(GHOST).json()["done_reason"] == "unload"
    ollama.round_trips()
    row = ollama.row(GHOST)
    assert row["digest"] == ollama.digest(old) != ollama.digest(GHOST)
    ollama.load(GHOST)
    rows = [(r["name"], r["digest"]) for r in ollama.ps()]
    assert rows == [(full(GHOST), ollama.digest(old)), (full(GHOST), ollama.digest(new))]


@pytest.mark.fact(23)
def test_a_ghost_goes_by_a_name_that_still_means_its_content(ollama: Ollama) -> None:
    """Fact 23: a copy made beforehand."""
    old, new = ollama.models.small_a, ollama.models.small_b
    ollama.copy(old, GHOST)
    ollama.copy(GHOST, HANDLE)
    ollama.load(GHOST, keep_alive=-1)
    ollama.copy(new, GHOST)
    ollama.unload(HANDLE)
    ollama.wait_gone(GHOST)


@pytest.mark.fact(23)
def test_a_pull_can_make_a_ghost(faulty: Ollama) -> None:
    """Fact 23: the tag is the same, its content different."""
    model = GHOST
    faulty.copy(faulty.models.small_a, model)
    faulty.load(model)
    before = faulty.digest(model)
    faulty.fault("new_content", tag=model, times=1)
    lines = faulty.post("/api/pull", model=model).text.splitlines()
    assert "success" in lines[-1]
    assert faulty.digest(model) != before == faulty.row(model)["digest"]


@pytest.mark.fact(24)
def test_a_deleted_model_stays_loaded_and_cannot_be_unloaded(ollama: Ollama) -> None:
    """Fact 24: except by another name for its content."""
    model = ollama.models.small_a
    ollama.copy(model, GHOST)
    ollama.load(GHOST)
    assert ollama.delete(GHOST).status_code == 200
    assert ollama.names() == {full(GHOST)}
    assert ollama.unload(GHOST).status_code == 404
    assert ollama.generate(GHOST).status_code == 404
    assert ollama.names() == {full(GHOST)}
    ollama.unload(model)
    ollama.wait_gone(GHOST)


@pytest.mark.fact(24)
def test_deleting_what_is_not_there_is_a_404(ollama: Ollama) -> None:
    """Fact 24."""
    answer = ollama.delete("contract-nope")
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "model 'contract-nope' not found"},
    )


@pytest.mark.fact(26)
def test_a_name_that_is_copied_over_answers_or_says_eof(ollama: Ollama) -> None:
    """Fact 26: the copy is not atomic, but nothing worse happens."""
    first, second = ollama.models.small_a, ollama.models.small_b
    for model in (first, second):
        ollama.load(model)
    ollama.copy(first, ACTIVE)
    running = True

    def ask() -> list[tuple[int, str]]:
        seen = []
        while running:
            answer = ollama.generate(ACTIVE, options={"num_predict": 1})
            seen.append((answer.status_code, answer.json().get("error", "")))
        return seen

    clients = [ollama.begin(ask) for _ in range(4)]
    for n in range(60):
        ollama.copy((second, first)[n % 2], ACTIVE)
    running = False
    wait(clients)
    seen = {pair for client in clients for pair in client.result()}
    assert (200, "") in seen
    assert seen <= {(200, ""), (500, "EOF")}


@pytest.mark.fact(26)
def test_a_request_in_the_middle_of_a_copy_gets_a_500(faulty: Ollama) -> None:
    """Fact 26, but lasting."""
    faulty.copy(faulty.models.small_a, ACTIVE)
    faulty.fault("torn_copy", seconds=0.3, times=1)
    copy = faulty.begin(faulty.copy, faulty.models.small_b, ACTIVE)
    faulty.round_trips()
    torn = faulty.generate(ACTIVE)
    assert (torn.status_code, torn.json()) == (500, {"error": "EOF"})
    copy.result()
    assert faulty.generate(ACTIVE).status_code == 200


@pytest.mark.fact(21)
def test_a_model_created_from_another_shares_its_runner_and_hides_behind_it(
    ollama: Ollama,
) -> None:
    """Fact 21: it has a digest of its own, under which nothing is listed."""
    base = ollama.models.small_a
    body = {"model": ACTIVE, "from": base, "system": "You are a pirate.", "stream": False}
    assert ollama.post("/api/create", **body).status_code == 200
    assert ollama.digest(ACTIVE) != ollama.digest(base)
    ollama.load(base)
    assert ollama.generate(ACTIVE).json()["done"] is True
    assert [(r["name"], r["digest"]) for r in ollama.ps()] == [(full(base), ollama.digest(base))]
    ollama.unload(ACTIVE)
    ollama.wait_gone(base)
