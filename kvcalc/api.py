"""The Python API: the command line's answers as objects. `import kvcalc; kvcalc.load("llama3").cache("128k").bytes`.

A loaded model keeps its prepared planners, so that a sweep pays for each engine and layout once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import Ask, Prepared, header, prepare
from kvcalc.core.capacity import max_context, max_sessions
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load
from kvcalc.errors import UsageError, short
from kvcalc.registry import Registry, load_registry
from kvcalc.targets import Target, load_target
from kvcalc.units import MAX_SESSIONS, MAX_TOKENS, gib, parse_bytes, parse_tokens

if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    from kvcalc.core.result import CacheRecord, ComponentBytes

    class Options(TypedDict, total=False):
        """What every question takes; the command line's options under the same names."""

        kv_dtype: str
        state_dtype: str
        index_dtype: str
        engine: str
        options: Iterable[str]
        tp: int
        pp: int
        dp: int
        dcp: int
        encoder_tokens: int
        gpu: str


_ASK = {"options": "engine_options"}


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of one load: the plan every number comes from, and the record the command line prints."""

    prepared: Prepared
    load: Load
    plan: CachePlan

    @property
    def bytes(self) -> int:
        """All ranks together."""
        return self.plan.total_bytes

    @property
    def rank_bytes(self) -> int:
        """The fullest rank."""
        return self.plan.max_rank_bytes

    @property
    def components(self) -> list[ComponentBytes]:
        """One row per array of one block, over all layers, sessions and ranks."""
        from kvcalc.answers.size import components

        return components(self.plan)

    def record(self) -> CacheRecord:
        """What `kvcalc size --json` answers, without its header."""
        from kvcalc.answers.size import cache_record

        return cache_record(self.prepared._replace(load=self.load))

    def _repr_html_(self) -> str:
        """A notebook shows the components."""
        rows = "".join(
            f"<tr><td>{row['name']}</td><td>{row['block']}</td><td>{row['kind']}</td><td>{row['layers']}</td>"
            f"<td>{row['law']}</td><td>{row['slots']:,}</td><td>{row['dtype']}</td><td>{row['bytes']:,}</td></tr>"
            for row in self.components
        )
        titles = "".join(
            f"<th>{word}</th>" for word in ("array", "block", "kind", "layers", "law", "slots", "dtype", "B")
        )
        name = self.prepared.target.model.name
        return (
            f"<p><b>{name}</b>: {gib(self.bytes)} for {self.load.context_tokens:,} tokens x {self.load.sessions:,}</p>"
            f"<table><tr>{titles}</tr>{rows}</table>"
        )

    def __repr__(self) -> str:
        name = self.prepared.target.model.name
        return f"<Cache {name}: {self.load.context_tokens:,} tokens x {self.load.sessions:,} = {self.bytes:,} B>"


class LoadedModel:
    """One model, ready for any question. Build it with `load`."""

    def __init__(self, target: Target, registry: Registry) -> None:
        self.target = target
        self._registry = registry
        self._prepared: dict[tuple[Any, ...], Prepared] = {}

    @cached_property
    def model(self) -> Model:
        """Layers, blocks, weights and where the numbers were read."""
        return self.target.model

    def prepare(self, **options: Unpack[Options]) -> Prepared:
        """The planner for these options, made once.

        Raises: UsageError, EngineRefusal.
        """
        asked: dict[str, Any] = {_ASK.get(name, name): value for name, value in options.items()}
        if "engine_options" in asked:
            asked["engine_options"] = tuple(asked["engine_options"])
        key = tuple(sorted(asked.items()))
        found = self._prepared.get(key)
        if found is None:
            gpu = self._registry.gpu(asked["gpu"]) if "gpu" in asked else None
            found = self._prepared[key] = prepare(self.target, Ask(**asked), gpu=gpu)
        return found

    def cache(self, context: int | str = 8192, sessions: int = 1, **options: Unpack[Options]) -> Cache:
        """The cache of `sessions` sessions of `context` tokens (an integer, or text like "128k").

        Raises: UsageError, EngineRefusal.

        >>> load("llama3").cache("128k").bytes
        17179869184
        """
        prepared = self.prepare(**options)
        load = Load(_tokens(context), _sessions(sessions), prepared.load.encoder_tokens)
        return Cache(prepared, load, prepared.planner.plan(load))

    def max_context(self, pool: int | str, sessions: int = 1, **options: Unpack[Options]) -> int | None:
        """Longest context that `sessions` sessions can have in `pool` (bytes, or text like "24GiB") per GPU.

        None: the cache does not grow with the context.

        >>> load("llama3").max_context("16GiB")
        131072
        """
        prepared = self.prepare(**options)
        tokens = prepared.load.encoder_tokens
        return max_context(prepared.planner, _bytes(pool), sessions=_sessions(sessions), encoder_tokens=tokens)

    def max_sessions(self, pool: int | str, context: int | str = 8192, **options: Unpack[Options]) -> int | None:
        """Most sessions of `context` tokens that `pool` per GPU holds.

        >>> load("llama3").max_sessions("16GiB", "8k")
        16
        """
        prepared = self.prepare(**options)
        tokens = prepared.load.encoder_tokens
        return max_sessions(prepared.planner, _bytes(pool), context_tokens=_tokens(context), encoder_tokens=tokens)

    def answer(self, context: int | str = 8192, sessions: int = 1, **options: Unpack[Options]) -> dict[str, Any]:
        """What `kvcalc size --json` prints, as a dict."""
        cache = self.cache(context, sessions, **options)
        inputs = {**cache.prepared.inputs, **cache.load._asdict()}
        return {**header("size", inputs), **cache.record()}

    def __repr__(self) -> str:
        kinds = " + ".join(f"{count} {kind}" for kind, count in self.model.kinds_summary().items())
        return f"<LoadedModel {self.model.name}: {kinds}>"


def load(target: str, *, models_dir: str | None = None, registry: Registry | None = None) -> LoadedModel:
    """The model of a TARGET: a shipped name, a YAML, a config.json or its folder.

    Raises: UsageError, ModelFileError.

    >>> load("deepseek-v2")
    <LoadedModel deepseek-v2: 60 mla>
    """
    known = registry or load_registry(models_dir)
    return LoadedModel(load_target(target, known), known)


def _tokens(context: int | str) -> int:
    tokens = parse_tokens(context) if isinstance(context, str) else context
    if type(tokens) is not int or not 1 <= tokens <= MAX_TOKENS:
        raise UsageError(f"context must be 1 to {MAX_TOKENS:,} tokens, not {short(context)}", field="context")
    return tokens


def _sessions(sessions: int) -> int:
    if type(sessions) is not int or not 1 <= sessions <= MAX_SESSIONS:
        raise UsageError(f"sessions must be 1 to {MAX_SESSIONS:,}, not {short(sessions)}", field="sessions")
    return sessions


def _bytes(size: int | str) -> int:
    number = parse_bytes(size, field="pool") if isinstance(size, str) else size
    if type(number) is not int or number < 0:
        raise UsageError(f"pool must be bytes, not {short(size)}", field="pool")
    return number
