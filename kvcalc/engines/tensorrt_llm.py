"""TensorRT-LLM, read from its source and not yet run: every number is an estimate until a start-up log confirms it.

Two managers. V1 (C++): equal blocks of all layers in one pool, sliding layers keep every token. V2: a pool group per
life cycle (full, or one window), memory mapped in grains of 2 to 32 MiB. auto takes V2 for the architectures listed.

Source: TensorRT-LLM mid-2026, tensorrt_llm/_torch/pyexecutor/resource_manager.py `get_cache_bytes_per_token`, _util.py
`_cal_max_memory`, runtime/kv_cache_manager_v2/_storage_manager.py `cache_tier_granularity`, _storage/_core.py
`_grains_to_slots`; cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp `allocatePools`; docs/source/features/kvcache.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from kvcalc.core.component import Chunked, Component, Linear, Windowed
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.ideal import stage_bounds
from kvcalc.errors import EngineRefusal
from kvcalc.units import GIB, MIB, ceil_div

DEFAULT_BLOCK = 32
#: `KvCacheConfig.free_gpu_memory_fraction`, of what a profiling run leaves free.
DEFAULT_FRACTION = 0.9
#: Indexer keys: fp8 with a float32 scale per 128 (`createIndexerKCachePools`).
INDEX_BLOCK = 128
#: Grain: 2 MiB for quotas below 2 GiB, twice that per doubling, 32 MiB from 16 GiB on.
GRAIN, MOST_SHIFTS = 2 * MIB, 4
#: auto takes the V2 manager for these model_types and for recurrent layers (docs, "Selecting the KV Cache Manager").
V2_TYPES = frozenset({"deepseek_v4", "gpt_oss", "gemma3_text", "gemma4_text", "llama", "llama4_text"})
#: Before the PyTorch flow the number of blocks was rounded up, and blocks had 64 or 128 tokens.
ROUNDS_UP = frozenset({"0.8"})


class Cycle(NamedTuple):
    """Layers that keep the same tokens. window: 0 for all of them. row_bytes: per token, over `layers`."""

    name: str
    block: str
    layers: tuple[int, ...]
    window: int
    row_bytes: int
    dtype: str


class Launch(NamedTuple):
    """The options. fraction: None where the pool is the KV memory itself."""

    block: int
    fraction: float | None
    max_tokens: int | None
    v2: bool
    rounds_up: bool


class Stage(NamedTuple):
    """One pipeline stage of one rank: growing caches, and bytes of one session's recurrent state."""

    cycles: tuple[Cycle, ...]
    state_bytes: int
    state_layers: tuple[int, ...]


def grain_bytes(quota: int) -> int:
    """The unit V2 maps memory in.

    >>> grain_bytes(GIB) // MIB, grain_bytes(5 * GIB) // MIB, grain_bytes(60 * GIB) // MIB
    (2, 8, 32)
    """
    return GRAIN << min(max((quota // GIB).bit_length() - 1, 0), MOST_SHIFTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtPlanner:
    """See `kvcalc.core.plan.Planner`."""

    stages: tuple[Stage, ...]
    launch: Launch
    layout: Layout
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    period_tokens: int
    saturation_tokens: int
    exactness: str = "estimate"

    def plan(self, load: Load) -> CachePlan:
        """Blocks for the sessions; each data-parallel replica holds its share."""
        share, extra = divmod(load.sessions, self.layout.dp)
        groups = [(share, range(extra, self.layout.dp))]
        if extra:
            groups.insert(0, (share + 1, range(extra)))
        plans = []
        for sessions, replicas in groups:
            for number, stage in enumerate(self.stages):
                ranks = tuple(self.layout.rank(dp, number, tp) for dp in replicas for tp in range(self.layout.tp))
                tensors = self._tensors(stage, load.context_tokens, sessions)
                size = sum(tensor.bytes for tensor in tensors)
                plans.append(RankPlan(ranks, tensors, size, size - self._free_for(size)))
        return CachePlan(plans)

    def _free_for(self, size: int) -> int:
        """Least free memory of whose fraction `size` bytes are a part."""
        fraction = self.launch.fraction
        if not fraction:
            return size
        free = ceil(size / fraction)
        return free if int(free * fraction) >= size else free + 1

    def beyond(self, load: Load) -> str | None:
        """max_tokens fixes the blocks of V1, whatever memory there is."""
        most = self.launch.max_tokens
        if most is None or self.launch.v2:
            return None
        block = self.launch.block
        needed = ceil_div(load.sessions, self.layout.dp) * ceil_div(load.context_tokens, block) * block
        held = most // block * block
        return None if needed <= held else f"max_tokens gives {held:,} tokens, {needed:,} are needed"

    def _blocks(self, cycle: Cycle, context: int) -> int:
        tokens = min(context, cycle.window) if cycle.window and self.launch.v2 else context
        return ceil_div(tokens, self.launch.block)

    def _tensors(self, stage: Stage, context: int, sessions: int) -> list[Tensor]:
        found = []
        for cycle in stage.cycles:
            count = sessions * self._blocks(cycle, context)
            size = count * self.launch.block * cycle.row_bytes
            law = f"window {cycle.window:,}" if cycle.window and self.launch.v2 else "linear"
            rows = count * self.launch.block
            found.append(Tensor(cycle.name, "blocks", cycle.block, law, cycle.layers, 1, rows, (size,), "int8", size))
        if stage.state_bytes:  # one slot more than requests
            size = (sessions + 1) * stage.state_bytes
            found.append(
                Tensor(
                    "state", "state", "state", "constant", stage.state_layers, 1, sessions + 1, (size,), "int8", size
                )
            )
        return found

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """Bytes per token and block, and with a pool the number of blocks."""
        stage = max(self.stages, key=lambda item: sum(cycle.row_bytes for cycle in item.cycles))
        row = sum(cycle.row_bytes for cycle in stage.cycles)
        found: dict[str, object] = {
            "kv_cache_manager": "V2" if self.launch.v2 else "V1",
            "tokens_per_block": self.launch.block,
            "cache_bytes_per_token": row,
            "block_bytes": row * self.launch.block,
        }
        if pool_bytes is None or not row:
            return found
        budget = int(pool_bytes * self.launch.fraction) if self.launch.fraction else pool_bytes
        budget -= (load.sessions + 1) * stage.state_bytes
        return found | (self._v2(stage, load, budget) if self.launch.v2 else self._v1(row, budget))

    def _v1(self, row: int, budget: int) -> dict[str, object]:
        block = row * self.launch.block
        blocks = ceil_div(budget, block) if self.launch.rounds_up else budget // block
        if self.launch.max_tokens is not None:
            blocks = min(blocks, self.launch.max_tokens // self.launch.block)
        return {
            "max_num_blocks": max(blocks, 0),
            "max_tokens": max(blocks, 0) * self.launch.block,
            "allocated_bytes": max(blocks, 0) * block,
        }

    def _v2(self, stage: Stage, load: Load, budget: int) -> dict[str, object]:
        """Grains are split over the life cycles by what a session of the asked context needs of each."""
        if budget <= 0:
            return {"max_num_blocks": 0, "max_tokens": 0, "allocated_bytes": 0, "pools": []}
        grain = grain_bytes(budget)
        grains = budget // grain
        needs = [self._blocks(cycle, load.context_tokens) * cycle.row_bytes for cycle in stage.cycles]
        pools = []
        for cycle, need in zip(stage.cycles, needs, strict=True):
            share = grains * need // sum(needs)
            slots = share * grain // (cycle.row_bytes * self.launch.block)
            pools.append({"block": cycle.block, "window": cycle.window or None, "slots": slots, "bytes": share * grain})
        full = [pool for pool in pools if pool["window"] is None] or pools
        blocks = min(int(str(pool["slots"])) for pool in full)
        return {
            "max_num_blocks": blocks,
            "max_tokens": blocks * self.launch.block,
            "grain_bytes": grain,
            "allocated_bytes": sum(int(str(pool["bytes"])) for pool in pools),
            "pools": pools,
        }


@dataclass(frozen=True, slots=True)
class TrtEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "tensorrt-llm"
    versions: tuple[str, ...] = ("1.3", "0.8")
    verified_by: str = "source"
    summary: str = "blocks of 32 tokens; V1 keeps windows in full, V2 pools per window in grains; read, not run"
    options: tuple[Option, ...] = (
        Option("tokens_per_block", "count", "tokens per block", DEFAULT_BLOCK),
        Option("free_gpu_memory_fraction", "fraction", "given, the pool is the memory free after the profiling run"),
        Option("max_tokens", "tokens", "most tokens in the pool (V1)"),
        Option("use_kv_cache_manager_v2", "choice", "which manager", "auto", ("auto", "true", "false")),
        Option("enable_attention_dp", "switch", "attention data parallelism: every rank has all heads", default=False),
    )

    def prepare(self, model: Model, setup: Setup) -> TrtPlanner:
        """The pools of every stage.

        Raises: EngineRefusal.
        """
        get, layout = setup.options.get, setup.layout
        if layout.dcp > 1:
            raise EngineRefusal("helix (context) parallelism is not modelled for TensorRT-LLM", fix="drop --dcp")
        if layout.pp > len(model.layers):
            raise EngineRefusal(f"{layout.pp} stages for {len(model.layers)} layers", fix="lower --pp", field="pp")
        recurrent = any(part.role == "state" for kind in model.blocks.values() for part in kind.lower())
        choice = get("use_kv_cache_manager_v2") or "auto"
        auto = setup.version != "0.8" and (recurrent or (model.architecture or "") in V2_TYPES)
        launch = Launch(
            block=get("tokens_per_block") or DEFAULT_BLOCK,
            fraction=get("free_gpu_memory_fraction"),
            max_tokens=get("max_tokens"),
            v2=auto if choice == "auto" else choice == "true",
            rounds_up=setup.version in ROUNDS_UP,
        )
        tp = 1 if get("enable_attention_dp") else layout.tp
        stages = tuple(_stage(model, setup, bounds, tp) for bounds in stage_bounds(len(model.layers), layout.pp))
        windows = [cycle.window for stage in stages for cycle in stage.cycles]
        return TrtPlanner(
            stages=stages,
            launch=launch,
            layout=layout,
            assumptions=_assumptions(launch, windows),
            warnings=("TensorRT-LLM's rules were read from its source, not run: no log has confirmed them",),
            period_tokens=launch.block,
            saturation_tokens=max(windows, default=0) if launch.v2 else 0,
        )


def _assumptions(launch: Launch, windows: list[int]) -> tuple[str, ...]:
    found = [f"KV cache manager {'V2' if launch.v2 else 'V1'}"]
    if launch.fraction is None:
        found.append(
            "the pool is the KV memory; give free_gpu_memory_fraction "
            f"(TensorRT-LLM's default is {DEFAULT_FRACTION}) for memory left free by the profiling run"
        )
    if launch.max_tokens is not None and launch.v2:
        found.append("max_tokens is not applied: how manager V2 takes it was not read")
    if any(windows) and not launch.v2:
        found.append("sliding layers keep every token: max_attention_window is not set")
    if launch.v2 and len(set(windows)) > 1:
        found.append("V2 splits its grains over the life cycles by what a session of the asked context needs")
    return tuple(found)


def _stage(model: Model, setup: Setup, bounds: tuple[int, int], tp: int) -> Stage:
    """Raises: EngineRefusal for components TensorRT-LLM has no pool for."""
    cycles: list[Cycle] = []
    state, layers = 0, []
    for block, where in model.stage_blocks(*bounds).items():
        parts = model.blocks[block].lower()
        for part in parts:
            if part.role in ("conv", "state"):
                state += len(where) * _state_bytes(part, setup, tp)
                layers += [index for index in where if index not in layers]
            elif part.role == "pending" or not isinstance(part.law, Linear | Windowed | Chunked):
                raise EngineRefusal(
                    f"{part.name} of block {block} is not modelled for TensorRT-LLM", fix="use -e vllm or -e sglang"
                )
        kept = [part for part in parts if part.role in ("key", "value", "index")]
        if kept:
            cycles.append(_cycle(block, where, kept, setup, tp))
    return Stage(tuple(cycles), state, tuple(layers))


def _cycle(block: str, layers: tuple[int, ...], parts: list[Component], setup: Setup, tp: int) -> Cycle:
    law = parts[0].law
    window = law.window if isinstance(law, Windowed) else law.chunk if isinstance(law, Chunked) else 0
    name = setup.dtypes.key
    row = 0
    for part in parts:
        if part.role == "index":
            width = part.elements_per_slot
            row += width + width // INDEX_BLOCK * 4
            continue
        for item in part.parts:
            # Whole heads per rank, copied once ranks outnumber heads.
            units = item.units if item.shard == "replicated" else max(ceil(item.units / tp), 1)
            row += units * DTYPES[setup.dtypes.of(part.role)].row_bytes(item.width)
    return Cycle("key_value", block, layers, window, row * len(layers), name)


def _state_bytes(part: Component, setup: Setup, tp: int) -> int:
    elements = sum(ceil_div(item.units, tp) * item.width for item in part.parts)
    return elements * part.law.slots(1) * DTYPES[setup.dtypes.of(part.role)].block_bytes


ENGINE = TrtEngine()
