"""Where a GPU's memory goes before the cache gets any: total, what the engine leaves unused, weights, everything
else, and what is left (the pool).

Each line has three values (best guess, worst and best case for the cache) and a word for its source. The lines of
each column sum to its pool. An engine's own rules are in `vllm_ledger`, `sglang_memory`, `llamacpp_memory` and
`fraction_memory`; engines without rules get one overhead line that is an estimate and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from kvcalc.core.gpu import Gpu
from kvcalc.core.light import NamedTuple
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.errors import UsageError
from kvcalc.planning.amount import Amount, band, exactly
from kvcalc.planning.weights import rank_weights
from kvcalc.units import GIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.result import LedgerLine
    from kvcalc.planning.lora import Lora
    from kvcalc.planning.startlog import StartLog

#: engine -> module of this package with `engine_lines(ask)`; imported only when asked for.
_RULES = {
    "vllm": "vllm_ledger",
    "sglang": "sglang_memory",
    "lmdeploy": "fraction_memory",
    "tensorrt-llm": "fraction_memory",
    **dict.fromkeys(("llama.cpp", "ollama", "lmstudio"), "llamacpp_memory"),
}
#: What of the load an engine's lines look at: vLLM before 0.10 the context (`vllm_ledger`), llama.cpp all its tokens.
_LOADED = {"vllm": "context", **dict.fromkeys(("llama.cpp", "ollama", "lmstudio"), "tokens")}
#: What activations, CUDA graphs and the driver took in 52 vLLM start-up logs (versions 0.6 to 0.31, quoted in public
#: issues), by the card's size: (up to this many bytes; tenth, median and ninth decile in hundredths of a GiB).
_OVERHEAD = ((30 * GIB, 38, 108, 203), (60 * GIB, 127, 233, 444), (120 * GIB, 170, 318, 578), (None, 216, 406, 784))
#: What macOS lets the GPU take of a machine's memory (Metal's recommendedMaxWorkingSetSize), up to this many bytes:
#: low, usual and high hundredths. Logs: two thirds of 32 GiB (ollama issue 434), 74 % of 16 and 78 % of 36 on newer
#: systems; three quarters of 64 and 96 (llama.cpp issues 1870, 3213), 84 % of 128 on macOS 26 (antirez/ds4 893).
_METAL = ((40 * GIB, 66, 74, 78), (None, 75, 75, 84))
#: Share of the GPU left unused: vLLM's default gpu_memory_utilization is 0.92 (0.33, config/cache.py:215).
_UNUSED_PERCENT = 8


class LedgerAsk(NamedTuple):
    """Everything the ledger depends on.

    engine, version, options: who allocates and how it is started; load: for engines whose buffers grow with it.
    overhead_bytes: replaces every line that is neither weights nor unused; total_bytes: the GPU's total as the
    driver (or a log) gives it; log: what a real start printed.
    """

    model: Model
    gpu: Gpu
    layout: Layout
    engine: str = "ideal"
    version: str = ""
    options: Mapping[str, Any] = MappingProxyType({})
    load: Load = Load(0)
    weight_dtype: str | None = None
    expert_parallel: bool = False
    lora: Lora | None = None
    overhead_bytes: int | None = None
    total_bytes: int | None = None
    log: StartLog | None = None


class Lever(NamedTuple):
    """One change of flags that would leave more for the cache; options: the engine's, as they would be."""

    change: str
    gain_bytes: int
    options: Mapping[str, Any] = MappingProxyType({})


class Ledger(NamedTuple):
    """The lines of one GPU, the fullest one; they sum to the pools (negative: the weights do not fit)."""

    lines: tuple[LedgerLine, ...]
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def pool_bytes(self) -> int:
        return sum(line["bytes"] for line in self.lines)

    @property
    def low_pool_bytes(self) -> int:
        return sum(line["low_bytes"] for line in self.lines)

    @property
    def high_pool_bytes(self) -> int:
        return sum(line["high_bytes"] for line in self.lines)


class Rest(NamedTuple):
    """What an engine's rules say beside the total and the weights; `levers`: option changes worth trying."""

    lines: list[tuple[str, Amount]]
    assumptions: list[str]
    warnings: list[str]
    levers: list[tuple[str, dict[str, Any]]]


def load_seen(engine: str, load: Load) -> int:
    """What the ledger of `engine` sees of the load: where it is equal, so is the ledger; 0 where it sees nothing."""
    seen = _LOADED.get(engine)
    if seen is None:
        return 0
    return load.context_tokens * (load.sessions if seen == "tokens" else 1)


def pool_only(pool_bytes: int, source: str, detail: str) -> Ledger:
    """The ledger of a pool somebody measured."""
    return Ledger((_given("pool", pool_bytes, source, detail, "exact" if source == "user" else "measured"),))


def _given(item: str, size: int, source: str, detail: str, exactness: str = "exact") -> LedgerLine:
    return {
        "item": item,
        "bytes": size,
        "low_bytes": size,
        "high_bytes": size,
        "source": source,
        "detail": detail,
        "exactness": exactness,
    }


def _taken(item: str, amount: Amount) -> LedgerLine:
    """A line that takes memory: its worst case for the cache is its most."""
    return {
        "item": item,
        "bytes": -amount.best,
        "low_bytes": -amount.high,
        "high_bytes": -amount.low,
        "source": amount.source,
        "detail": amount.detail,
        "exactness": amount.exactness,
    }


def build_ledger(ask: LedgerAsk) -> Ledger:
    """The memory of each GPU of the layout.

    Raises: UsageError when the weights are unknown, or where the engine's method is known not to hold.
    """
    total = _total(ask)
    kept = _kept_by_macos(ask, total)
    rest = _rest(ask, total["bytes"] - sum(amount.best for _, amount in kept))
    lines = [total, *(_taken(item, amount) for item, amount in [*kept, *rest.lines, *_adapters(ask)])]
    return Ledger(tuple(lines), tuple(rest.assumptions), tuple(rest.warnings))


def follows_load(ask: LedgerAsk) -> bool:
    """Whether the pool is another one for another load: some buffer grows with it."""
    return _LOADED.get(ask.engine) == "tokens" and ask.overhead_bytes is None


def _adapters(ask: LedgerAsk) -> list[tuple[str, Amount]]:
    """The slots of LoRA adapters."""
    if ask.lora is None:
        return []
    from kvcalc.planning.lora import lora_bytes

    size = lora_bytes(ask.model, ask.lora, ask.layout.tp)
    detail = f"{ask.lora.slots} slots of rank {ask.lora.rank}, 2 bytes per element"
    return [("LoRA slots", exactly(size, "formula", detail, "estimate"))]


def levers(ask: LedgerAsk) -> list[Lever]:
    """Changes of the engine's flags and what each would add to the pool, the largest first."""
    total = _total(ask)
    rest = _rest(ask, total["bytes"] - sum(amount.best for _, amount in _kept_by_macos(ask, total)))
    now = build_ledger(ask).pool_bytes
    found = []
    for change, options in rest.levers:
        gain = build_ledger(ask._replace(options={**ask.options, **options})).pool_bytes - now
        if gain > 0:
            found.append(Lever(change, gain, options))
    return sorted(found, key=lambda lever: -lever.gain_bytes)


def _total(ask: LedgerAsk) -> LedgerLine:
    """What a program sees of the GPU: asked, logged, the runtime's own number, else the driver's or the box's."""
    gpu, item = ask.gpu, f"{ask.gpu.name} memory"
    if ask.total_bytes is not None:
        return _given(item, ask.total_bytes, "user", "--gpu-total")
    if ask.log is not None and ask.log.total_bytes is not None:
        return _given(item, ask.log.total_bytes, "log", "total the engine printed")
    if ask.engine != "ideal" and gpu.runtime_bytes is not None:
        return _given(item, gpu.runtime_bytes, "log", "total that engines print for this GPU")
    if gpu.total_is == "driver":
        return _given(item, gpu.total_bytes, "driver", "driver's total")
    return _given(item, gpu.total_bytes, "band", "marketed size; the driver reports less", "estimate")


def _kept_by_macos(ask: LedgerAsk, total: LedgerLine) -> list[tuple[str, Amount]]:
    """The part of an Apple machine's memory that no GPU program gets, unless the limit itself was given."""
    if ask.gpu.vendor != "Apple" or total["source"] != "band":
        return []
    size = total["bytes"]
    _, least, usual, most = next(row for row in _METAL if row[0] is None or size < row[0])
    best, low, high = (size - size * share // 100 for share in (usual, most, least))
    detail = "Metal's limit: --gpu-total takes the recommendedMaxWorkingSetSize of your machine"
    return [("kept by macOS", band(best, low, high, "band", detail))]


def _rest(ask: LedgerAsk, total: int) -> Rest:
    if ask.engine in _RULES:
        module = import_module(f"kvcalc.planning.{_RULES[ask.engine]}")
        rest: Rest = module.engine_rest(ask, total)
        return rest
    weights = weights_of(ask)
    lines = [("weights", weights)]
    if ask.overhead_bytes is not None:
        return Rest([*lines, ("overhead", user_overhead(ask.overhead_bytes))], [], [], [])
    if ask.gpu.vendor == "Apple":  # macOS has kept its share already
        return Rest([*lines, ("overhead", usual_overhead(ask.gpu))], [], [], [])
    unused = exactly(total * _UNUSED_PERCENT // 100, "formula", f"{_UNUSED_PERCENT} % left unused", "estimate")
    return Rest([*lines, ("unused share", unused), ("overhead", usual_overhead(ask.gpu))], [], [], [])


def usual_overhead(gpu: Gpu) -> Amount:
    """What is neither weights nor cache on cards of this size."""
    _, low, usual, high = next(row for row in _OVERHEAD if row[0] is None or gpu.total_bytes < row[0])
    detail = "deciles of 52 vLLM start-up logs; replace with --overhead"
    return band(usual * GIB // 100, low * GIB // 100, high * GIB // 100, "band", detail)


def weights_of(ask: LedgerAsk) -> Amount:
    """The weights of the fullest rank; vLLM's own flag for expert parallelism counts, too."""
    return rank_weights(
        ask.model,
        ask.layout,
        weight_dtype=ask.weight_dtype,
        expert_parallel=ask.expert_parallel or bool(ask.options.get("enable_expert_parallel")),
        drafts=bool(ask.options.get("num_speculative_tokens")),
    )


def user_overhead(size: int) -> Amount:
    return exactly(size, "user", "--overhead")


def refuse(ask: LedgerAsk, why: str) -> UsageError:
    """The error where an engine's closed form is known not to hold."""
    return UsageError(
        f"the memory {ask.engine} leaves for the cache is unknown here: {why}",
        fix="give --overhead SIZE (everything but weights), --pool SIZE, or --from-log FILE of a real start",
        field="gpu",
        value=ask.gpu.name,
    )
