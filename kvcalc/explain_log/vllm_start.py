"""How a vLLM of a log was started: what the log states, and what it leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm import ENGINE
from kvcalc.engines.vllm.cachedtypes import CACHE_DTYPES
from kvcalc.engines.vllm.planner import VllmPlanner
from kvcalc.engines.vllm.versions import RULES
from kvcalc.explain_log.facts import Found
from kvcalc.explain_log.flags import Log


class Start(NamedTuple):
    """How the engine was started, as far as it is known or tried. `version`: a release line of the rules."""

    version: str
    tp: int
    pp: int
    dcp: int
    gpu: str | None
    options: dict[str, Any]


def logged_start(log: Log) -> Start:
    """Flags of the log; what it does not state stays the engine's default."""
    flags = log.flags
    options: dict[str, Any] = {}
    for name in ("max_num_batched_tokens", "block_size"):
        if (value := flags.whole(name)) is not None:
            options[name] = value
    for name in ("enable_prefix_caching", "async_scheduling", "disable_hybrid_kv_cache_manager"):
        if (text := flags.text(name)) is not None and text.lower() in ("true", "false"):
            options[name] = text.lower() == "true"
    dtype = flags.text("kv_cache_dtype")
    if dtype in CACHE_DTYPES and dtype != "auto":
        options["kv_cache_dtype"] = dtype
    if first_engine(log.found):
        options["disable_hybrid_kv_cache_manager"] = True  # vLLM before V1 kept every layer in full
    tp, pp, dcp = (flags.whole(name) or 1 for name in ("tp", "pp", "dcp"))
    return Start(next(iter(RULES)), tp, pp, dcp, log.gpu, options)


def first_engine(found: Found) -> bool:
    """Printed by vLLM's first engine (V0): blocks instead of tokens."""
    fact = found.first("num_gpu_blocks")
    return fact is not None and "GPU blocks:" in fact.text


def versions(found: Found) -> list[str]:
    """Release lines to try: the logged one alone, or every line that brought a change, newest first."""
    fact = found.first("version")
    oldest, newest = list(RULES)[-1], next(iter(RULES))
    if fact is None:
        if first_engine(found):
            return [oldest]
        kept: dict[Any, str] = {}
        for version, rules in RULES.items():
            kept.setdefault(rules, version)
        return list(kept.values())
    line = ".".join(str(fact.value).split(".")[:2])
    if line in RULES:
        return [line]
    later = [int(part) for part in line.split(".")] > [int(part) for part in newest.split(".")]
    return [newest if later else oldest]


def prepare(model: Model, start: Start) -> VllmPlanner:
    """The engine as it was started.

    Raises: KvcalcError.
    """
    base, own = model.cache_dtype or model.dtype, model.dtype
    state = model.state_dtype or "float32"
    dtypes = CacheDtypes(key=base, value=base, index=own, pending=own, conv=own, state=state)
    layout = Layout(tp=start.tp, pp=start.pp, dcp=start.dcp)
    return ENGINE.prepare(model, Setup(start.version, dtypes, layout, start.options, start.gpu))


def other_starts(start: Start, log: Log) -> tuple[list[tuple[str, Start]], list[tuple[str, Start]]]:
    """Single changes of what the log leaves open, and pairs of them; each with its flags."""
    single = list(_changes(start, log))
    pairs = [
        (f"{one} and {two}", _both(start, left, right))
        for (one, left), (two, right) in combinations(single, 2)
        if not _same_setting(start, left, right)
    ]
    return single, pairs


def _changes(start: Start, log: Log) -> Iterator[tuple[str, Start]]:
    flags = log.flags
    if flags.text("tp") is None:
        for tp in (2, 4, 8):
            yield f"--tensor-parallel-size {tp}", start._replace(tp=tp)
    if flags.text("pp") is None:
        yield "--pipeline-parallel-size 2", start._replace(pp=2)
    for flag, name, value in _options(log):
        if start.options.get(name) != value:
            yield flag, start._replace(options=start.options | {name: value})
    if log.gpu is None:
        for name in ("sm80", "sm89", "sm100", "sm120"):
            yield f"a GPU of {name}", start._replace(gpu=name)


def _options(log: Log) -> list[tuple[str, str, Any]]:
    """Options that the log does not state: flag, option, value."""
    flags = log.flags
    options: list[tuple[str, str, Any]] = []
    if flags.text("kv_cache_dtype") is None:
        options.append(("--kv-cache-dtype fp8", "kv_cache_dtype", "fp8"))
    if flags.whole("max_num_batched_tokens") is None:
        options += [(f"--max-num-batched-tokens {n}", "max_num_batched_tokens", n) for n in (2048, 8192, 16384, 4096)]
    options.append(("--mamba-ssm-cache-dtype float32", "mamba_ssm_cache_dtype", "float32"))
    if flags.text("enable_prefix_caching") is None:
        options += [
            ("--no-enable-prefix-caching", "enable_prefix_caching", False),
            ("--enable-prefix-caching", "enable_prefix_caching", True),
        ]
    if flags.text("async_scheduling") is None:
        options.append(("--no-async-scheduling", "async_scheduling", False))
    if flags.text("disable_hybrid_kv_cache_manager") is None and not first_engine(log.found):
        options.append(("--disable-hybrid-kv-cache-manager", "disable_hybrid_kv_cache_manager", True))
    if flags.whole("block_size") is None:
        options += [(f"blocks of {size} tokens", "block_size", size) for size in (32, 64, 128, 256, 512)]
    return options


def _both(start: Start, first: Start, second: Start) -> Start:
    """Both changes on top of each other."""
    return Start(
        start.version,
        first.tp if first.tp != start.tp else second.tp,
        first.pp if first.pp != start.pp else second.pp,
        start.dcp,
        first.gpu if first.gpu != start.gpu else second.gpu,
        start.options | _new(start, first) | _new(start, second),
    )


def _new(start: Start, changed: Start) -> dict[str, Any]:
    return {name: value for name, value in changed.options.items() if start.options.get(name) != value}


def _same_setting(start: Start, first: Start, second: Start) -> bool:
    """Two values of one setting."""
    shared = _new(start, first).keys() & _new(start, second).keys()
    return bool(shared) or start.tp not in (first.tp, second.tp) or start.gpu not in (first.gpu, second.gpu)
