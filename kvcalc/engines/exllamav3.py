"""ExLlamaV3: fp16 or 2- to 8-bit pages of 256 tokens, and per-slot states that do not depend on the context.

Only listed architectures keep a sliding layer as a ring per slot; the others (Gemma 2 and 3, OLMo 3, EXAONE 4) keep
every token. A ring holds the window and two pages more, so that speculation can roll back. K and V are both stored
in K's width. `max_batch_size` slots of ring and state exist from the start, 16 unless told otherwise.

Source: exllamav3 1.6.5, cache/cache.py, fp16.py, quant.py, mla.py, dsa.py; modules/sliding_attn.py `SWALayerState`,
gated_delta_net.py `GDNLayerState`, short_conv.py `ShortConvLayerState`; architecture/*.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from kvcalc.core.component import Chunked, Component, Constant, Strided, Windowed
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES
from kvcalc.engines.base import Option, Setup, need_own_type
from kvcalc.engines.classes import class_of
from kvcalc.engines.ideal import stage_bounds
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div

PAGE = 256
#: Elements that share one fp16 scale.
GROUP = 32
#: Tokens a ring holds beyond its window: `sliding_window_overp`.
RING_SLACK = 2 * PAGE
DEFAULT_SLOTS = 16

_ARCHITECTURES = """
AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM BailingMoeV3ForCausalLM Cohere2ForCausalLM CohereForCausalLM
DeciLMForCausalLM DeepseekV3ForCausalLM DeepseekV4ForCausalLM Dots1ForCausalLM Ernie4_5_ForCausalLM
Ernie4_5_MoeForCausalLM Exaone4ForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Gemma3ForConditionalGeneration
Gemma4ForConditionalGeneration Gemma4UnifiedForConditionalGeneration Glm4ForCausalLM Glm4MoeForCausalLM
Glm4MoeLiteForCausalLM Glm4vForConditionalGeneration Glm4vMoeForConditionalGeneration Glm5NextForConditionalGeneration
GlmMoeDsaForCausalLM GptOssForCausalLM HCXVisionV2ForCausalLM HYV3ForCausalLM HyperCLOVAXForCausalLM
IQuestCoderForCausalLM KimiLinearForCausalLM LagunaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM
Lfm2VlForConditionalGeneration LlamaForCausalLM MiMoForCausalLM MiMoV2ForCausalLM MiniMaxM2ForCausalLM
Ministral3ForCausalLM Mistral3ForConditionalGeneration MistralForCausalLM MixtralForCausalLM
MuseGlimmerForConditionalGeneration NemotronHForCausalLM NemotronH_Omni_Reasoning_V3 Olmo3ForCausalLM
OlmoHybridForCausalLM Phi3ForCausalLM Qwen2ForCausalLM Qwen2_5_VLForConditionalGeneration Qwen3ForCausalLM
Qwen3MoeForCausalLM Qwen3NextForCausalLM Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration
Qwen3_5ForCausalLM Qwen3_5ForConditionalGeneration Qwen3_5MoeForCausalLM Qwen3_5MoeForConditionalGeneration
SeedOssForCausalLM SmolLM3ForCausalLM SolarOpenForCausalLM Spark2_5ForCausalLM Step3p5ForCausalLM
Step3p7ForConditionalGeneration
"""
ARCHITECTURES = frozenset(_ARCHITECTURES.split())
#: Refuse to route within groups of experts.
UNGROUPED = frozenset({"DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM"})
#: Sliding layers are rings (`SlidingAttention`): class -> whether its window leaves out the token itself.
RINGS = {
    "GptOssForCausalLM": True,
    "Gemma4ForConditionalGeneration": True,
    "Gemma4UnifiedForConditionalGeneration": True,
    "MiMoV2ForCausalLM": True,
    "MuseGlimmerForConditionalGeneration": True,
    "AfmoeForCausalLM": False,
    "LagunaForCausalLM": False,
    "Step3p5ForCausalLM": False,
    "Step3p7ForConditionalGeneration": False,
    "Spark2_5ForCausalLM": False,
}


class Array(NamedTuple):
    """One tensor of one layer: rows per page of tokens, or per slot, x the shape of a row."""

    name: str
    per: str
    shape: tuple[int, ...]
    dtype: str


class Group(NamedTuple):
    """Layers that store the same arrays."""

    block: str
    layers: tuple[int, ...]
    arrays: tuple[Array, ...]


class Launch(NamedTuple):
    """The options. k_bits, v_bits: 0 for fp16."""

    k_bits: int
    v_bits: int
    slots: int | None
    history: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exllamav3Planner:
    """See `kvcalc.core.plan.Planner`."""

    stages: tuple[tuple[Group, ...], ...]
    launch: Launch
    layout: Layout
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    exactness: str
    period_tokens: int = PAGE
    saturation_tokens: int = 0

    def plan(self, load: Load) -> CachePlan:
        """Pages for all sessions together, and the slots."""
        share, extra = divmod(load.sessions, self.layout.dp)
        groups = [(share, range(extra, self.layout.dp))]
        if extra:
            groups.insert(0, (share + 1, range(extra)))
        plans = []
        for sessions, replicas in groups:
            pages = sessions * ceil_div(load.context_tokens, PAGE)
            for number, stage in enumerate(self.stages):
                ranks = tuple(self.layout.rank(dp, number, tp) for dp in replicas for tp in range(self.layout.tp))
                tensors = [tensor for group in stage for tensor in _tensors(group, pages, self._slots(sessions))]
                plans.append(RankPlan(ranks, tensors, sum(tensor.bytes for tensor in tensors)))
        return CachePlan(plans)

    def _slots(self, sessions: int) -> int:
        return max(DEFAULT_SLOTS if self.launch.slots is None else self.launch.slots, sessions)

    @staticmethod
    def _pages(stage: tuple[Group, ...], pool_bytes: int, slots: int) -> int:
        fixed = _bytes(stage, 0, slots)
        return (pool_bytes - fixed) // (_bytes(stage, 1, slots) - fixed)

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """What `Cache` would hold for the load, and with a pool the largest max_num_tokens."""
        slots = self._slots(load.sessions)
        page = max(_bytes(stage, 1, slots) - _bytes(stage, 0, slots) for stage in self.stages)
        fixed = max(_bytes(stage, 0, slots) for stage in self.stages)
        pages = load.sessions * ceil_div(load.context_tokens, PAGE)
        found: dict[str, object] = {
            "page_size": PAGE,
            "max_batch_size": slots,
            "page_bytes": page,
            "recurrent_bytes": fixed,
            "storage_size": sum(_bytes(stage, pages, slots) for stage in self.stages),
        }
        if pool_bytes is not None and page:
            # A stage of rings and states alone has no pages to run out of.
            paged = [stage for stage in self.stages if _bytes(stage, 1, slots) > _bytes(stage, 0, slots)]
            found["max_num_tokens"] = max(min(self._pages(stage, pool_bytes, slots) for stage in paged), 0) * PAGE
        return found


def _bytes(stage: tuple[Group, ...], pages: int, slots: int) -> int:
    return sum(tensor.bytes for group in stage for tensor in _tensors(group, pages, slots))


def _tensors(group: Group, pages: int, slots: int) -> list[Tensor]:
    found = []
    for name, per, shape, dtype in group.arrays:
        count = pages if per == "page" else slots
        whole = (count, *shape)
        size = len(group.layers) * prod(whole) * DTYPES[dtype].block_bytes
        rows = pages * PAGE if per == "page" else slots
        found.append(Tensor(name, per, group.block, per, group.layers, len(group.layers), rows, whole, dtype, size))
    return found


@dataclass(frozen=True, slots=True)
class Exllamav3Engine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "exllamav3"
    versions: tuple[str, ...] = ("1.6.5",)
    verified_by: str = "its own cache classes on CPU, recorded cells"
    summary: str = "pages of 256 tokens in fp16 or 2 to 8 bits; rings and states per slot, 16 slots from the start"
    options: tuple[Option, ...] = (
        Option("k_bits", "count", "bits per element of K, 2 to 8 (fp16 when absent)"),
        Option("v_bits", "count", "bits per element of V, 2 to 8 (k_bits when absent)"),
        Option("max_batch_size", "count", "slots for rings and recurrent states", DEFAULT_SLOTS),
        Option("max_history", "count", "draft tokens that a recurrent state can roll back", 0),
        Option(
            "recurrent_dtype", "choice", "of GDN and KDA states; Mamba-2 is always float", "half", ("half", "float")
        ),
    )

    def prepare(self, model: Model, setup: Setup) -> Exllamav3Planner:
        """The arrays of every layer.

        Raises: EngineRefusal.
        """
        name = class_of(model)
        _check(model, setup, name)
        launch = _launch(model, setup)
        stages = tuple(
            _groups(model, name, launch, bounds, setup.layout.tp)
            for bounds in stage_bounds(len(model.layers), setup.layout.pp)
        )
        assumptions = ["one cache of all sessions' tokens, each session rounded up to pages of 256"]
        if launch.slots is None:
            assumptions.append(f"max_batch_size {DEFAULT_SLOTS}, or as many as sessions")
        if name is None:
            assumptions.append("the file names no architectures: whether ExLlamaV3 has the model is not checked")
        split = setup.layout.tp > 1 or setup.layout.pp > 1
        if split:
            assumptions.append("equal shares per GPU; ExLlamaV3 splits by the memory it finds free")
        return Exllamav3Planner(
            stages=stages,
            launch=launch,
            layout=setup.layout,
            assumptions=tuple(assumptions),
            warnings=(),
            exactness="estimate" if split else "exact",
        )


def _check(model: Model, setup: Setup, name: str | None) -> None:
    """Raises: EngineRefusal for architectures and layouts ExLlamaV3 does not have."""
    parts = [part for kind in model.blocks.values() for part in kind.lower()]
    odd = {part.name for part in parts} & {"cross_key", "lru_state", "wkv_state"}
    if (name is not None and name not in ARCHITECTURES) or odd:
        raise EngineRefusal(
            f"ExLlamaV3 1.6.5 has no architecture {name or model.architecture}", fix="choose another engine"
        )
    groups = model.facts.get("n_group")
    if type(groups) is int and groups > 1 and name in UNGROUPED:
        raise EngineRefusal(
            f"Group-limited expert routing (n_group = {groups}) is not supported", fix="choose another engine"
        )
    if (name or "").startswith("Gemma4") and any(getattr(kind, "of", None) for kind in model.blocks.values()):
        raise EngineRefusal("Gemma4 per-layer inputs are not implemented yet", fix="choose another engine")
    if setup.layout.dcp > 1:
        raise EngineRefusal("ExLlamaV3 has no decode context parallelism", fix="drop --dcp", field="dcp")
    if setup.layout.pp > len(model.layers):
        raise EngineRefusal(f"{setup.layout.pp} stages for {len(model.layers)} layers", fix="lower --pp", field="pp")


def _launch(model: Model, setup: Setup) -> Launch:
    """Raises: EngineRefusal for bits outside 2 to 8, or a cache type that is not fp16."""
    get = setup.options.get
    k_bits, v_bits = get("k_bits"), get("v_bits")
    key = setup.dtypes.key
    plain = ("float16", "bfloat16", "float32", model.dtype, model.cache_dtype)
    if k_bits is None and v_bits is None and key not in plain:
        raise EngineRefusal(
            f"ExLlamaV3 cannot keep its cache in {key}", fix="use -o k_bits=8 -o v_bits=8 (2 to 8)", field="kv-dtype"
        )
    if k_bits is None and v_bits is None:
        need_own_type("ExLlamaV3", "float16", setup, fix="use -o k_bits=8 -o v_bits=8 (2 to 8)")
    k_bits = k_bits if k_bits is not None else v_bits
    v_bits = v_bits if v_bits is not None else k_bits
    if k_bits is not None and not (2 <= k_bits <= 8 and v_bits is not None and 2 <= v_bits <= 8):
        raise EngineRefusal("quantized cache must be from 2 to 8 bits", fix="k_bits and v_bits from 2 to 8")
    return Launch(
        k_bits=k_bits or 0,
        v_bits=v_bits or 0,
        slots=get("max_batch_size"),
        history=get("max_history") or 0,
        state="float32" if get("recurrent_dtype") == "float" else "float16",
    )


def _groups(model: Model, name: str | None, launch: Launch, bounds: tuple[int, int], tp: int) -> tuple[Group, ...]:
    ring = RINGS.get(name or "")
    found = []
    for block, layers in model.stage_blocks(*bounds).items():
        kind = model.blocks[getattr(model.blocks[block], "of", None) or block]
        arrays = _arrays(kind.lower(), launch, ring=ring, tp=tp)
        if arrays:
            found.append(Group(block, layers, arrays))
    return tuple(found)


def _arrays(parts: tuple[Component, ...], launch: Launch, *, ring: bool | None, tp: int) -> tuple[Array, ...]:
    """What one layer stores."""
    states = [part for part in parts if part.role in ("conv", "state")]
    if states:
        return _state_arrays(states, launch, tp)
    keys = [part for part in parts if part.role == "key"]
    if not keys:
        return ()
    compressed = next((part for part in keys if isinstance(part.law, Strided)), None)
    law = keys[0].law
    if compressed is not None or (len(parts) == 1 and isinstance(law, Windowed) and keys[0].parts[0].units == 1):
        return _compressed_arrays(parts, compressed, launch)
    if keys[0].parts[0].shard != "heads":
        return _latent_arrays(parts, launch)
    head = keys[0].parts[0]
    heads = _divided(head.units, tp)
    window = law.window if isinstance(law, Windowed) else law.chunk if isinstance(law, Chunked) else None
    if window is not None and ring is not None:
        rows = ceil_div(window - ring + RING_SLACK, PAGE) * PAGE
        shape = (rows, heads, head.width)
        return (Array("key", "slot", shape, "float16"), Array("value", "slot", shape, "float16"))
    if not launch.k_bits:
        shape = (PAGE, heads, head.width)
        return (Array("key", "page", shape, "float16"), Array("value", "page", shape, "float16"))
    groups = heads * head.width // GROUP
    return (
        *_quantised("key", groups, launch.k_bits, PAGE),
        *_quantised("value", groups, launch.v_bits, PAGE),
    )


def _quantised(name: str, groups: int, bits: int, rows: int) -> tuple[Array, Array]:
    """32-bit words of `bits` per element, 32 elements a group, and one fp16 scale per group."""
    return (
        Array(name, "page", (rows, groups * bits), "float32"),  # int32 words: 4 bytes
        Array(f"{name}_scale", "page", (rows, groups), "float16"),
    )


def _divided(units: int, tp: int) -> int:
    if units % tp:
        raise EngineRefusal(f"{units} heads over tp {tp}: only even shares are modelled", fix="choose another --tp")
    return units // tp


def _latent_arrays(parts: tuple[Component, ...], launch: Launch) -> tuple[Array, ...]:
    """The latent, packed when quantised; rotary key and indexer keys stay fp16 (`CacheLayer_MLA_fp16`, `_quant`)."""
    latent = next(part for part in parts if part.name == "latent").elements_per_slot
    rope = next((part.elements_per_slot for part in parts if part.name == "rope_key"), 0)
    found = list(_quantised("latent", latent // GROUP, launch.k_bits, PAGE)) if launch.k_bits else []
    if not found:
        found.append(Array("latent", "page", (PAGE, latent), "float16"))
    if rope:
        found.append(Array("rope_key", "page", (PAGE, rope), "float16"))
    index = next((part for part in parts if part.role == "index"), None)
    if index is not None:
        width = index.elements_per_slot
        pooled = index.law.tokens_per_slot if isinstance(index.law, Strided) else 0
        # Pooled indexers keep each token's key and its gate scores, and the pooled keys beside them.
        found.append(Array("index_key", "page", (PAGE, width * (2 if pooled else 1)), "float16"))
        if pooled:
            found.append(Array("index_pool", "page", (PAGE // pooled, width), "float16"))
    return tuple(found)


def _compressed_arrays(parts: tuple[Component, ...], entry: Component | None, launch: Launch) -> tuple[Array, ...]:
    """DeepSeek-V4: entries in pages; per slot a ring of the window and the compressor's open groups.

    Source: cache/dsa.py `CacheLayer_dsa`, `DSV4LayerState`. 64 of the 512 elements carry the rotary position.
    """
    window = next(part for part in parts if isinstance(part.law, Windowed))
    width = window.elements_per_slot
    law = window.law
    rows = ceil_div((law.window if isinstance(law, Windowed) else 0) + RING_SLACK, PAGE) * PAGE
    found = [Array("window_kv", "slot", (rows, width), "float16")]
    if entry is None or not isinstance(entry.law, Strided):
        return tuple(found)
    rate, rope = entry.law.tokens_per_slot, 64
    index = next((part for part in parts if part.role == "index"), None)
    if launch.k_bits:
        found += _quantised("compressed_kv", (width - rope) // GROUP, launch.k_bits, PAGE // rate)
        found.append(Array("compressed_rope", "page", (PAGE // rate, rope), "float16"))
    else:
        found.append(Array("compressed_kv", "page", (PAGE // rate, width), "float16"))
    if index is not None:
        found.append(Array("index_key", "page", (PAGE // rate, index.elements_per_slot), "float16"))
    for part in parts:
        if part.role == "pending":  # projected rows of the last page and the open group
            found.append(Array(part.name, "slot", (PAGE + rate, part.elements_per_slot), "float16"))
    if index is not None:  # snapshots of the overlap, one per group of a page and two more
        snapshot = width + index.elements_per_slot
        found.append(Array("overlap", "slot", (PAGE // rate + 2, 2, rate, snapshot), "float32"))
    return tuple(found)


def _state_arrays(states: list[Component], launch: Launch, tp: int) -> tuple[Array, ...]:
    """Convolution, recurrent state and what a speculative pass stages; a bare convolution has only itself."""
    conv = next((part for part in states if part.role == "conv"), None)
    if conv is None:
        raise EngineRefusal("ExLlamaV3 has no recurrent state without a convolution", fix="choose another engine")
    taps = (conv.law.count if isinstance(conv.law, Constant) else 0) + 1
    channels = sum(_divided(part.units, tp) * part.width for part in conv.parts)
    state = next((part for part in states if part.role == "state"), None)
    kept = launch.history + 1
    if state is None:
        return (Array("conv_state", "slot", (channels, taps + launch.history), "float16"),)
    heads, matrix = _divided(state.parts[0].units, tp), state.parts[0].width
    # Mamba-2 states stay float32: half their values lie below fp16's normal range.
    dtype = "float32" if state.name == "ssm_state" else launch.state
    gates = heads
    if state.name != "ssm_state" and len(conv.parts) == 1:  # KDA: a gate per key channel
        key_dim = conv.parts[0].width // 3
        if key_dim * key_dim != matrix:
            raise EngineRefusal("KDA with keys and values of different width is not modelled", fix="use -e ideal")
        gates = heads * key_dim
    return (
        Array("conv_state", "slot", (channels, taps + launch.history), "bfloat16"),
        Array("recurrent_state", "slot", (2, heads, matrix), dtype),  # two rows: the last pass can be undone
        Array("staged_conv", "slot", (kept, channels), "bfloat16"),
        Array("staged_beta", "slot", (kept, heads), "bfloat16"),
        Array("staged_gate", "slot", (kept, gates), "float32"),
    )


ENGINE = Exllamav3Engine()
