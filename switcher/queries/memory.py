"""How much memory a model is expected to take on a host, from what was learned there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from switcher.domain.memory import (
    LEARNED,
    NO_MEMORY,
    Loaded,
    ModelFacts,
    Size,
    context_given,
    expected_size,
)
from switcher.domain.observed import Installed, is_cloud
from switcher.domain.specs import Spec
from switcher.domain.versions import Version, numbers_of
from switcher.models import Host, KnownModel, LearnedSize, Reading
from switcher.queries.history import Past, past_loads


@dataclass(frozen=True, slots=True)
class ExpectedMemory:
    """The size of a model with the context that it will get, and what both are known from."""

    size: Size
    context: int  # 0 if there is no model
    facts: ModelFacts | None = None
    seen: tuple[Loaded, ...] = ()


def expected_memory(host: Host, target: Installed | None, spec: Spec) -> ExpectedMemory:
    """Return what a model is expected to take on a host, loaded as the spec says."""
    if is_cloud(spec.name, target):
        return ExpectedMemory(NO_MEMORY, 0)
    if target is None:
        return ExpectedMemory(Size(0, ""), 0)
    past = past_loads(host, target.digest)
    seen, facts = _seen(host.pk, target.digest, past), known_facts(target.digest)
    same = [p for p in past if p.num_ctx == spec.num_ctx]
    given = next((p.context for p in same if p.context), 0)
    context = given or _context(host, target.digest, spec, facts)
    if target.most_context:
        context = min(context, target.most_context)
    # Older servers do not report the context length.
    bare = next((p.size for p in same if p.size and not p.context), 0)
    if bare and not given:
        return ExpectedMemory(Size(bare, "as last loaded here", LEARNED), context, facts, seen)
    on_gpu = host.vram_bytes is not None
    slots = host.parallel_requests or 0
    size = expected_size(context, target.size, facts, seen, on_gpu, slots)
    return ExpectedMemory(size, context, facts, seen)


def _context(host: Host, digest: str, spec: Spec, facts: ModelFacts | None) -> int:
    rows = LearnedSize.objects.filter(host=host, digest=digest, by_default=True)
    last = rows.values_list("context_length", flat=True).first() or 0
    return context_given(spec.num_ctx, facts, last, host.vram_bytes, _version(host))


def _version(host: Host) -> Version:
    rows = Reading.objects.filter(host=host).values_list("version", flat=True)
    return numbers_of(rows.first() or "")


def _seen(host_id: int, digest: str, past: Iterable[Past]) -> tuple[Loaded, ...]:
    rows = LearnedSize.objects.filter(host_id=host_id, digest=digest).order_by("-seen_at")
    learned = [Loaded(c, size) for c, size in rows.values_list("context_length", "size")]
    return (*learned, *(Loaded(p.context, p.size) for p in past if p.context and p.size))


def known_facts(digest: str) -> ModelFacts | None:
    """Return what a model's own description told; None if it is not known."""
    row = KnownModel.objects.filter(digest=digest).values_list("facts", flat=True).first()
    return ModelFacts.from_json(row) if row else None


def made_of_same_file(digest: str, others: Iterable[str]) -> frozenset[str]:
    """Return those of the other models that have the file of this one, as far as is known: the
    server loads such a file only once, and lists it as the model that came first (fact 21)."""
    facts = known_facts(digest)
    if facts is None or not facts.file:
        return frozenset()
    found = ((other, known_facts(other)) for other in others if other != digest)
    return frozenset(other for other, known in found if known and known.file == facts.file)


def without_facts(digests: Iterable[str]) -> list[str]:
    """Return those digests whose models were not asked for their description yet."""
    wanted = list(dict.fromkeys(digests))
    known = set(KnownModel.objects.filter(digest__in=wanted).values_list("digest", flat=True))
    return [digest for digest in wanted if digest not in known]
