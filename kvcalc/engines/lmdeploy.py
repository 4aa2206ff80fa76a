"""LMDeploy's PyTorch engine: one pool of equal blocks for all layers, recurrent states off the top.

A block holds `block_size` tokens of every layer; each layer's K, V and quantisation parameters are rounded up to
256 bytes. No layer saves memory by a window: sliding layers keep what full ones keep. TurboMind, LMDeploy's C++
engine, is another allocator and is not what this computes.

Source: lmdeploy 0.18.0, pytorch/engine/cache_engine/schema.py and layout.py (blocks), pytorch/engine/executor/base.py
(`update_configs`: reserves and the number of blocks), pytorch/configurations/*.py (what a layer is),
pytorch/models/module_map.py (which models exist).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

from kvcalc.core.component import Component, Constant
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.classes import class_of
from kvcalc.engines.lmdeploy_blocks import POLICIES, Blocks, StateSlot, block_arrays, state_slot
from kvcalc.engines.lmdeploy_models import EXPANDED, NATIVE, NOT_MODELLED
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div

DEFAULT_BLOCK = 64
#: `PytorchEngineConfig`: share of free memory for blocks, tokens of one prefill, requests at once.
DEFAULT_RATIO, DEFAULT_PREFILL, DEFAULT_BATCHES = 0.8, 8192, 128
#: Slots beside the running requests: one reserved, one for rolling prefill (`_get_state_cache_mem`).
SPARE_SLOTS = 2
#: `_get_runtime_size` lowers the prefill until this many blocks fit.
LEAST_BLOCKS = 16

_BY_DTYPE = {"int4": 4, "int8": 8, "fp8_e4m3": 16, "fp8_e5m2": 17}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """The options. ratio: None where the pool is the cache memory itself, not free memory to be divided."""

    block: int
    policy: int
    ratio: float | None
    batches: int | None
    prefill: int
    state_budget: int
    vocab: int | None
    flash: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LmdeployPlanner:
    """See `kvcalc.core.plan.Planner`."""

    blocks: Blocks
    states: StateSlot | None
    launch: Launch
    layout: Layout
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    period_tokens: int
    saturation_tokens: int = 0
    exactness: str = "exact"

    def plan(self, load: Load) -> CachePlan:
        """Blocks that hold the sessions, and the state slots; every TP rank the same."""
        share, extra = divmod(load.sessions, self.layout.dp)
        plans = []
        groups = [(share, range(extra, self.layout.dp))]
        if extra:
            groups.insert(0, (share + 1, range(extra)))
        for sessions, replicas in groups:
            ranks = tuple(self.layout.rank(dp, 0, tp) for dp in replicas for tp in range(self.layout.tp))
            plans.append(self._rank(sessions, load.context_tokens)._replace(ranks=ranks))
        return CachePlan(plans)

    def _rank(self, sessions: int, context: int) -> RankPlan:
        count = sessions * ceil_div(context, self.launch.block)
        tensors = []
        for name, shape, dtype, size in self.blocks.arrays:
            layers = self.blocks.layers
            # The pool is bytes; an array with padding at its end has no shape of elements.
            padded = dtype == "int8" or size != prod(shape) * DTYPES[dtype].row_bytes(1)
            whole, stored = ((count, size), "int8") if padded else ((count, *shape), dtype)
            tensors.append(
                Tensor(name, "block", "kv", "blocks", layers, len(layers), count * self.launch.block, whole, stored,
                       len(layers) * count * size)
            )  # fmt: skip
        slots = self.slots(sessions)
        if self.states is not None:
            for name, shape, size in self.states.arrays:
                layers = self.states.layers
                tensors.append(
                    Tensor(name, "state", "state", "slots", layers, 1, slots, (slots, *shape), "bfloat16", slots * size)
                )
        total = sum(tensor.bytes for tensor in tensors)
        return RankPlan((), tensors, total, total - self._charged(count, slots))

    def slots(self, sessions: int) -> int:
        """State slots: one per request that may run, the spare ones, and what the prefix cache was given."""
        if self.states is None:
            return 0
        return max(self.launch.batches or sessions, sessions) + SPARE_SLOTS + self.launch.state_budget

    def _charged(self, count: int, slots: int) -> int:
        """Pool bytes that are sure to give `count` blocks."""
        states = 0 if self.states is None else slots * self.states.slot_bytes
        if self.launch.ratio is None:
            return count * self.blocks.block_bytes + states
        blocks = max(count, LEAST_BLOCKS) * self.blocks.block_bytes
        return ceil(blocks / self.launch.ratio) + self._runtime(self.launch.prefill) + states + 1

    def _runtime(self, prefill: int) -> int:
        """Logits of one step: `_get_runtime_size`."""
        batches = self.launch.batches or DEFAULT_BATCHES
        return int((prefill + batches * 2) * (self.launch.vocab or 0) * 2)

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """block_bytes, and with a pool the number of blocks."""
        found: dict[str, object] = {
            "block_size": self.launch.block,
            "block_bytes": self.blocks.block_bytes,
            "quant_policy": self.launch.policy,
        }
        if self.states is not None:
            found["state_slot_bytes"] = self.states.slot_bytes
        if pool_bytes is None:
            return found
        return found | self._with_pool(pool_bytes)

    def _with_pool(self, pool_bytes: int) -> dict[str, object]:
        """Raises: EngineRefusal where LMDeploy would not start."""
        slots = self.slots(self.launch.batches or DEFAULT_BATCHES)
        free = pool_bytes - (0 if self.states is None else slots * self.states.slot_bytes)
        if free <= 0:
            raise EngineRefusal(
                "No enough gpu memory for state cache. Please reduce max_batch_size.",
                fix="lower max_batch_size, or give more memory",
                field="pool",
            )
        prefill = self.launch.prefill
        available = free
        if self.launch.ratio is not None:
            prefill, available = self._after_reserves(free, self.launch.ratio)
        blocks = self._count(available)
        found: dict[str, object] = {
            "num_gpu_blocks": blocks,
            "kv_cache_tokens": blocks * self.launch.block,
            "max_prefill_token_num": prefill,
            "allocated_bytes": blocks * self.blocks.block_bytes,
        }
        if self.states is not None:
            found["num_state_caches"] = slots
            found["state_bytes"] = slots * self.states.slot_bytes
        return found

    def _after_reserves(self, free: int, ratio: float) -> tuple[int, int]:
        """(prefill tokens, bytes for blocks): the prefill is halved until 16 blocks fit."""
        prefill = self.launch.prefill
        while prefill > 0:
            available = int((free - self._runtime(prefill)) * ratio)
            if self._count(available) >= LEAST_BLOCKS:
                return prefill, available
            prefill //= 2
        raise EngineRefusal("No enough gpu memory for runtime.", fix="give more memory", field="pool")

    def _count(self, available: int) -> int:
        blocks = available // self.blocks.block_bytes
        if blocks <= 2:
            raise EngineRefusal("No enough gpu memory for kv cache.", fix="give more memory", field="pool")
        return blocks


@dataclass(frozen=True, slots=True)
class LmdeployEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "lmdeploy"
    versions: tuple[str, ...] = ("0.18.0",)
    verified_by: str = "its own cache engine on CPU, recorded cells (PyTorch engine; TurboMind is another allocator)"
    summary: str = "equal blocks for all layers, 256-byte rounding, no saving by windows; states off the top"
    options: tuple[Option, ...] = (
        Option("block_size", "count", "tokens per block", DEFAULT_BLOCK),
        Option("quant_policy", "choice", "0 none, 4 int4, 8 int8, 16 fp8, 17 fp8 e5m2, 42 turbo (else --kv-dtype)",
               None, tuple(str(policy) for policy in POLICIES)),
        Option("cache_max_entry_count", "fraction",
               "share of the pool for blocks; given, the pool is the memory free after weights"),
        Option("max_batch_size", "count", "requests at once; sizes the state slots and the logits"),
        Option("max_prefill_token_num", "count", "tokens of one prefill step", DEFAULT_PREFILL),
        Option("prefix_cache_state_budget", "count", "state slots for prefix checkpoints", 0),
    )  # fmt: skip

    def prepare(self, model: Model, setup: Setup) -> LmdeployPlanner:
        """The blocks of every rank.

        Raises: EngineRefusal.
        """
        name = class_of(model)
        _check(model, setup, name)
        launch = _launch(model, setup)
        launch = _adjusted(model, launch, setup.gpu)
        blocks, states = _read(model, name, launch, setup.layout.tp)
        assumptions = ["PyTorch engine; its TurboMind engine allocates differently"]
        if name is None:
            assumptions.append("the file names no architectures: whether LMDeploy has the model is not checked")
        if launch.ratio is None:
            assumptions.append("the pool is the cache memory; give cache_max_entry_count for free memory to be divided")
        if any(not isinstance(c.law, Constant) and str(c.law) != "linear" for c in _components(model)):
            assumptions.append("sliding and chunked layers keep every token")
        if states is not None and launch.batches is None:
            assumptions.append(f"max_batch_size: as many as sessions; {DEFAULT_BATCHES} where the pool is divided")
        return LmdeployPlanner(
            blocks=blocks,
            states=states,
            launch=launch,
            layout=setup.layout,
            assumptions=tuple(assumptions),
            warnings=(),
            period_tokens=launch.block,
        )


def _components(model: Model) -> list[Component]:
    return [part for kind in model.blocks.values() for part in kind.lower()]


def _check(model: Model, setup: Setup, name: str | None) -> None:
    """Raises: EngineRefusal for a model LMDeploy does not have, or a layout it does not know."""
    if name in NOT_MODELLED:
        raise EngineRefusal(f"{name} is not modelled for LMDeploy: its cache has arrays of its own", fix="use -e vllm")
    odd = {part.name for part in _components(model)} & {"compressed_kv", "index_key", "cross_key", "ssm_state"}
    if (name is not None and name not in NATIVE) or odd:
        raise EngineRefusal(
            f"LMDeploy's PyTorch engine 0.18 has no model {name or model.architecture}",
            fix="choose another engine",
            field="model",
        )
    if setup.layout.pp > 1 or setup.layout.dcp > 1:
        raise EngineRefusal(
            "LMDeploy has tensor and data parallelism, no pipeline or decode context parallelism",
            fix="drop --pp and --dcp",
            field="pp",
        )


def _launch(model: Model, setup: Setup) -> Launch:
    get = setup.options.get
    policy = get("quant_policy")
    if policy is None:
        key = setup.dtypes.key
        if key != setup.dtypes.value:
            raise EngineRefusal("LMDeploy has one quant_policy for K and V", fix="give --kv-dtype one type")
        own = (model.dtype, "bfloat16", "float16")
        unasked = key == model.cache_dtype and "key" not in setup.asked
        policy = 0 if key in own or unasked else _BY_DTYPE.get(key)
        if policy is None:
            raise EngineRefusal(
                f"LMDeploy cannot keep its cache in {key}", fix=f"one of: {', '.join(_BY_DTYPE)}", field="kv-dtype"
            )
    ratio = get("cache_max_entry_count")
    if ratio is not None and model.vocab_size is None:
        raise EngineRefusal(
            "vocab_size is needed to divide free memory: LMDeploy reserves logits", fix="add vocab_size"
        )
    return Launch(
        block=get("block_size") or DEFAULT_BLOCK,
        policy=int(policy),
        ratio=ratio,
        batches=get("max_batch_size"),
        prefill=get("max_prefill_token_num") or DEFAULT_PREFILL,
        state_budget=get("prefix_cache_state_budget") or 0,
        vocab=model.vocab_size,
    )


def _adjusted(model: Model, launch: Launch, gpu: str | None) -> Launch:
    """Latents need FlashMLA, which needs sm90; without it rows of 512 elements and more have blocks of 32 at most.

    Source: configurations/utils.py `flash_mla_available`, executor/base.py `_adjust_block_size`.
    """
    older = gpu is not None and gpu.startswith("sm") and gpu[2:].isdigit() and int(gpu[2:]) < 90
    if not older:
        return launch
    widest = max((part.elements_per_slot for part in _components(model) if part.name == "latent"), default=0)
    return replace(launch, flash=False, block=min(launch.block, 32) if widest >= 512 else launch.block)


def _read(model: Model, name: str | None, launch: Launch, tp: int) -> tuple[Blocks, StateSlot | None]:
    """The one shape of all attention layers, and the recurrent layers' states.

    Raises: EngineRefusal for layers that differ, block sizes and degrees LMDeploy refuses.
    """
    shapes: set[tuple[int, int, int, bool]] = set()
    attention: list[int] = []
    recurrent: list[int] = []
    states: dict[str, list[Component]] = {}
    for index, names in enumerate(model.layers):
        for block in names:
            kind = model.blocks[getattr(model.blocks[block], "of", None) or block]
            parts = kind.lower()
            if any(part.role in ("conv", "state") for part in parts):
                states[block] = [part for part in parts if part.role in ("conv", "state")]
                recurrent.append(index)
                continue
            if not any(part.role == "key" for part in parts):
                continue
            attention.append(index)
            queries = getattr(kind, "heads", 0)  # attention heads; every attention kind has them
            if queries % tp:
                raise EngineRefusal(
                    f"{queries} attention heads cannot be divided over tp {tp}", fix="choose another --tp", field="tp"
                )
            shapes.add(_shape(parts, kind.mha_widths(model.blocks), queries, expanded=name == EXPANDED))
    if len(shapes) != 1:
        raise EngineRefusal("LMDeploy has one block shape for all layers, this model has several", fix="another engine")
    heads, key_dim, value_dim, latent = shapes.pop()
    if latent and launch.flash and launch.block != DEFAULT_BLOCK:
        raise EngineRefusal(
            "Please set block_size to 64 for flash_mla.", fix="drop block_size", field="block_size", value=launch.block
        )
    arrays = block_arrays(_kv_heads(heads, tp), key_dim, value_dim, block=launch.block, policy=launch.policy)
    slot = state_slot(states, tuple(recurrent), tp) if states else None
    return Blocks(arrays=arrays, layers=tuple(attention)), slot


def _shape(
    parts: tuple[Component, ...], widths: tuple[int, int] | None, heads: int, *, expanded: bool
) -> tuple[int, int, int, bool]:
    """(KV heads, K width, V width, whether it is a latent). A latent is one K head; V lies inside it."""
    keys = [part for part in parts if part.role == "key"]
    if keys[0].parts[0].shard == "heads":
        head = keys[0].parts[0]
        return head.units, head.width, head.width, False  # v_head_dim is not read: configurations/default.py
    if not expanded:
        return 1, sum(part.elements_per_slot for part in keys), 0, True
    if widths is None:
        raise EngineRefusal("the file does not say what the latent expands to", fix="add nope_dim and v_head_dim")
    return heads, widths[0] // heads, widths[0] // heads, False


def _kv_heads(heads: int, tp: int) -> int:
    """Heads on one rank: copied up to tp, else they must divide (`update_num_kv_heads`, `from_hf_config`)."""
    if (heads >= tp and heads % tp) or (heads < tp and tp % heads):
        raise EngineRefusal(
            f"{heads} KV heads and tp {tp}: one must divide the other", fix="choose another --tp", field="tp", value=tp
        )
    return max(heads // tp, 1)


ENGINE = LmdeployEngine()
