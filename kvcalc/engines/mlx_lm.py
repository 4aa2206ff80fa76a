"""MLX-LM: one cache object per layer, grown in steps of 256 rows while a session is generated.

Only listed model modules give sliding layers a rotating cache; in the others every layer keeps every token. Some
modules cache latents expanded to heads (DeepSeek-V2, MiniCPM3). The indexer of DeepSeek-V3.2 is cached as keys and,
a second time, as values. A session of n tokens is a prompt of n - max_tokens tokens and max_tokens generated ones;
the rows of a rotating cache depend on both.

Source: mlx-lm 0.32.2, models/cache.py `KVCache`, `RotatingKVCache`, `ChunkedKVCache`, `QuantizedKVCache`,
generate.py `generate_step`, and `make_cache` of models/*.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from kvcalc.core.component import Chunked, Component, Constant, Law, Windowed
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES
from kvcalc.engines.base import Option, Setup, need_own_type
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div

STEP = 256
PREFILL_STEP = 2048
#: `DEFAULT_QUANTIZED_KV_START`, and what mx.quantize and the cache agree on.
QUANTIZED_START, GROUP_SIZE = 5000, 64
_BITS = (2, 3, 4, 8)

#: Modules whose sliding layers rotate (llama, which runs Mistral, only where the config lists layer_types).
_ROTATING = """
afmoe cohere2 exaone4 exaone_moe gemma3_text gemma3n gemma4_text gpt_oss laguna mellum mimo_v2_flash
ministral3 muse_glimmer muse_spark olmo3 recurrent_gemma spark2_5 step3p5
"""
#: Modules that make their own caches, so that max_kv_size is ignored (`make_prompt_cache`).
_OWN_CACHES = """
bailing_hybrid bailing_moe_linear bailing_moe_v3 deepseek_v32 falcon_h1 glm_moe_dsa granitemoehybrid jamba kimi_k3
kimi_linear lfm2 lfm2_moe llama llama4_text longcat_flash mamba mamba2 nanbeige nemotron-nas nemotron_h olmo_hybrid
qwen3_5 qwen3_5_moe qwen3_next rwkv7 minimax_m3_vl
"""
#: Modules without a rotating cache or caches of their own.
_PLAIN = """
apertus bailing_moe bitnet cohere dbrx deepseek deepseek_v2 deepseek_v3 dots1 ernie4_5 ernie4_5_moe exaone gemma gemma2
glm glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox gptj granite granitemoe helium hunyuan hunyuan_v1_dense
internlm2 internlm3 mimo minicpm minicpm3 minimax mistral4 mixtral nanochat nemotron olmo olmo2 olmoe openelm phi phi3
phi3small phimoe phixtral qwen qwen2 qwen2_moe qwen2_vl qwen3 qwen3_moe qwen3_vl qwen3_vl_moe seed_oss smollm3
solar_open stablelm starcoder2 telechat3 youtu_llm
"""
ROTATING = frozenset(_ROTATING.split())
OWN_CACHES = ROTATING | frozenset(_OWN_CACHES.split())
MODULES = OWN_CACHES | frozenset(_PLAIN.split())
#: model_type -> module, where they differ: `MODEL_REMAPPING`, and text sections of multimodal configs.
_MODULE_OF = {
    "mistral": "llama",
    "falcon_mamba": "mamba",
    "kimi_k2": "deepseek_v3",
    "minimax_m2": "minimax",
    "iquestcoder": "llama",
    "xverse": "llama",
    "phi-msft": "phixtral",
    "qwen2_5_vl_text": "qwen2_vl",
    "gemma4_unified_text": "gemma4_text",
}
#: Cache K and V of every head instead of the latent.
EXPANDED = frozenset({"deepseek_v2", "minicpm3"})


#: Keep recurrent states in the model's type; the others in float32.
STATE_IN_MODEL_TYPE = frozenset({"mamba", "jamba", "recurrent_gemma"})


class Row(NamedTuple):
    """One array of one layer: widths per row, and how its rows grow."""

    name: str
    role: str
    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: str
    growth: str
    limit: int


class Launch(NamedTuple):
    """Options. bits: 0 for no quantisation."""

    bits: int
    group: int
    start: int
    max_kv_size: int | None
    generated: int


class Place(NamedTuple):
    """Where an array belongs."""

    block: str
    layers: tuple[int, ...]
    dtype: str
    module: str
    beside: bool = False  # the layer has other caches too


def plain_rows(tokens: int) -> int:
    """`KVCache`: whole steps.

    >>> plain_rows(1), plain_rows(256), plain_rows(257)
    (256, 256, 512)
    """
    return ceil_div(tokens, STEP) * STEP


def rotating_rows(tokens: int, generated: int, limit: int) -> int:
    """`RotatingKVCache` after a prompt of tokens - generated and `generated` tokens.

    The prompt without its last token is concatenated in chunks; then one token at a time, in place: the first of
    them adds a step (never beyond the limit) or trims to the limit.

    >>> rotating_rows(7, 1, 512), rotating_rows(303, 3, 4096), rotating_rows(2102, 2, 128)
    (261, 555, 128)
    """
    first = max(tokens - generated - 1, 0)
    single = tokens - first  # one at least: the prompt's last token
    return limit if first >= limit else min(first + ceil_div(single, STEP) * STEP, limit)


def chunked_rows(tokens: int, limit: int) -> int:
    """`ChunkedKVCache`: once a chunk is full, the step that drops the oldest token adds a step of rows."""
    return plain_rows(tokens) if tokens - 1 <= limit else limit + STEP


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxPlanner:
    """See `kvcalc.core.plan.Planner`."""

    rows: tuple[Row, ...]
    launch: Launch
    layout: Layout
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    saturation_tokens: int
    period_tokens: int = STEP
    exactness: str = "exact"

    def plan(self, load: Load) -> CachePlan:
        """Each session's arrays; one device, or one per data-parallel replica."""
        share, extra = divmod(load.sessions, self.layout.dp)
        plans = []
        groups = [(share, range(extra, self.layout.dp))]
        if extra:
            groups.insert(0, (share + 1, range(extra)))
        for sessions, replicas in groups:
            tensors = [tensor for row in self.rows for tensor in self._tensors(row, load.context_tokens, sessions)]
            plans.append(RankPlan(tuple(replicas), tensors, sum(tensor.bytes for tensor in tensors)))
        return CachePlan(plans)

    def _slots(self, row: Row, tokens: int) -> int:
        if row.growth == "state":
            return 1
        if row.growth == "rotating":
            return rotating_rows(tokens, min(self.launch.generated, tokens - 1), row.limit)
        return chunked_rows(tokens, row.limit) if row.growth == "chunked" else plain_rows(tokens)

    def _tensors(self, row: Row, tokens: int, sessions: int) -> list[Tensor]:
        slots = self._slots(row, tokens)
        parts = [(row.name, row.widths, row.dtype)]
        bits = self.launch.bits
        if bits and row.growth == "plain" and row.role == "quantisable" and tokens >= self.launch.start:
            *heads, width = row.widths
            words = width * bits // 32  # packed into 32-bit words
            scales = width // self.launch.group
            parts = [
                (row.name, (*heads, words), "float32"),
                (f"{row.name}_scales", (*heads, scales), row.dtype),
                (f"{row.name}_biases", (*heads, scales), row.dtype),
            ]
        found = []
        for name, widths, dtype in parts:
            shape = (sessions, slots, *widths)
            size = len(row.layers) * prod(shape) * DTYPES[dtype].block_bytes
            found.append(
                Tensor(name, row.role, row.block, row.growth, row.layers, len(row.layers), slots, shape, dtype, size)
            )
        return found

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """`nbytes` of all caches, as MLX-LM adds them up."""
        plan = self.plan(load)
        found: dict[str, object] = {"nbytes": plan.total_bytes, "step": STEP}
        if any(row.growth == "rotating" for row in self.rows):
            found["rotating_max_size"] = max(row.limit for row in self.rows if row.growth == "rotating")
        return found


@dataclass(frozen=True, slots=True)
class MlxEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "mlx-lm"
    versions: tuple[str, ...] = ("0.32.2",)
    verified_by: str = "its own models and caches on CPU, recorded cells and a live test"
    summary: str = "grows by 256 rows; rotating caches for listed models only; some latents expanded"
    options: tuple[Option, ...] = (
        Option("kv_bits", "count", "bits of a quantised cache: 2, 3, 4 or 8"),
        Option("kv_group_size", "count", "elements per scale and bias", GROUP_SIZE),
        Option("quantized_kv_start", "count", "tokens from which the cache is quantised", QUANTIZED_START),
        Option("max_kv_size", "tokens", "rotating cache for models that make none of their own"),
        Option("max_tokens", "tokens", "generated tokens among the context", 1),
    )

    def prepare(self, model: Model, setup: Setup) -> MlxPlanner:
        """The caches of every layer.

        Raises: EngineRefusal.
        """
        module = _module_of(model)
        if setup.layout.tp > 1 or setup.layout.pp > 1 or setup.layout.dcp > 1:
            raise EngineRefusal(
                "kvcalc models MLX-LM on one device: its distributed caches are not modelled",
                fix="drop --tp, --pp and --dcp",
                field="tp",
            )
        launch = _launch(model, setup)
        rows = _rows(model, module, launch)
        _check_bits(module, rows, launch)
        return MlxPlanner(
            rows=rows,
            launch=launch,
            layout=setup.layout,
            assumptions=(
                f"generated tokens of the context: {launch.generated}, the others are the prompt",
                "every session a cache of its own, or a batch of equal lengths",
                f"cache and convolution tails in {model.dtype}, recurrent states as the module keeps them",
            ),
            warnings=_warnings(rows, module, launch, model),
            saturation_tokens=max((row.limit + PREFILL_STEP for row in rows if row.limit), default=0),
        )


def _module_of(model: Model) -> str:
    """The module of mlx_lm.models that runs the model.

    Raises: EngineRefusal.
    """
    kind = model.architecture or ""
    names = (_MODULE_OF.get(kind, kind), kind.removesuffix("_text"), str(model.facts.get("wrapper", "")))
    found = next((name for name in names if name in MODULES), None)
    if found is None and kind in ("", "unknown"):
        return ""
    if found is None:
        raise EngineRefusal(f"Model type {kind} not supported.", fix="choose another engine", field="model")
    return found


def _launch(model: Model, setup: Setup) -> Launch:
    """Raises: EngineRefusal for bits or cache types MLX-LM does not have."""
    get = setup.options.get
    bits = get("kv_bits")
    if bits is not None and bits not in _BITS:
        raise EngineRefusal(f"kv_bits {bits}: MLX-LM caches have 2, 3, 4 or 8 bits", fix="kv_bits=8", field="kv_bits")
    key = setup.dtypes.key
    if key not in ("bfloat16", "float16", "float32", model.dtype, model.cache_dtype):
        raise EngineRefusal(f"MLX-LM cannot keep its cache in {key}", fix="use -o kv_bits=8 or 4", field="kv-dtype")
    if bits is None:
        need_own_type("MLX-LM", model.dtype, setup, fix="use -o kv_bits=8 or 4")
    start = get("quantized_kv_start")
    return Launch(
        bits=bits or 0,
        group=get("kv_group_size") or GROUP_SIZE,
        start=QUANTIZED_START if start is None else start,
        max_kv_size=get("max_kv_size"),
        generated=get("max_tokens") or 1,
    )


def _rows(model: Model, module: str, launch: Launch) -> tuple[Row, ...]:
    found: list[Row] = []
    for block, layers in model.stage_blocks(0, len(model.layers)).items():
        kind = model.blocks[block]
        parts = kind.lower()
        states = [part for part in parts if part.role in ("conv", "state")]
        if states:
            found += _state_rows(states, Place(block, layers, model.dtype, module))
        elif parts:
            expanded = kind.mha_widths(model.blocks) if module in EXPANDED else None
            heads = getattr(kind, "heads", 1)  # query heads, for the modules that expand
            place = Place(block, layers, model.dtype, module, any(len(model.layers[index]) > 1 for index in layers))
            found += _attention_rows(parts, place, launch, expanded=expanded, heads=heads)
    return tuple(found)


def _state_rows(states: list[Component], place: Place) -> list[Row]:
    """`ArraysCache`: convolution inputs in the model's type, states in float32 or, in some modules, the same."""
    found = []
    for part in states:
        width = part.elements_per_slot
        if part.role == "conv":
            rows = part.law.count if isinstance(part.law, Constant) else 0
            shape: tuple[int, ...] = (rows, width)
            dtype = place.dtype
        else:
            shape = (width,)
            dtype = place.dtype if place.module in STATE_IN_MODEL_TYPE else "float32"
        found.append(Row(part.name, "state", place.block, place.layers, shape, dtype, "state", 0))
    return found


def _attention_rows(
    parts: tuple[Component, ...],
    place: Place,
    launch: Launch,
    *,
    expanded: tuple[int, int] | None,
    heads: int,
) -> list[Row]:
    """The arrays of one attention layer. expanded: K and V widths of all `heads`, where the module caches those."""
    unknown = any(part.role == "pending" or part.name.startswith("cross_") for part in parts)
    if unknown or not any(part.role == "key" for part in parts):  # a layer may own only an indexer's key
        raise EngineRefusal(f"block {place.block} is not modelled for MLX-LM", fix="use -e ideal", field="attention")
    growth, limit = _growth(next(part.law for part in parts if part.role == "key"), place.module, launch)
    # Several caches of one layer are a `CacheList`, which has no to_quantized: bits are ignored.
    listed = place.beside or any(part.role == "index" for part in parts)
    role = "list" if listed else "quantisable"
    widths: list[tuple[str, str, tuple[int, int]]] = []
    for part in parts:
        if part.role == "index":  # stored as keys and once more as values
            widths += [(name, "list", (1, part.elements_per_slot)) for name in (part.name, f"{part.name}_again")]
        elif expanded is None:
            widths.append((part.name, role, (part.parts[0].units, part.parts[0].width)))
    if expanded is not None:
        widths += [
            (name, role, (heads, width // heads)) for name, width in zip(("key", "value"), expanded, strict=True)
        ]
    return [
        Row(name, kind, place.block, place.layers, width, place.dtype, growth, limit) for name, kind, width in widths
    ]


def _growth(law: Law, module: str, launch: Launch) -> tuple[str, int]:
    if isinstance(law, Windowed) and module in ROTATING:
        return "rotating", law.window
    if isinstance(law, Chunked) and module == "llama4_text":
        return "chunked", law.chunk
    if launch.max_kv_size is not None and module not in OWN_CACHES:
        return "rotating", launch.max_kv_size
    return "plain", 0


def _check_bits(module: str, rows: tuple[Row, ...], launch: Launch) -> None:
    """What fails in MLX-LM as soon as quantized_kv_start tokens are cached."""
    if not launch.bits:
        return
    if any(row.growth == "rotating" for row in rows):
        raise EngineRefusal("RotatingKVCache Quantization NYI", fix="drop kv_bits", field="kv_bits")
    if module == "gemma2" or any(row.name == "latent" and row.role == "quantisable" for row in rows):
        raise EngineRefusal(
            f"'list' object has no attribute 'swapaxes': {module} computes with the cache itself",
            fix="drop kv_bits",
            field="kv_bits",
        )
    for row in rows:
        if row.role == "quantisable" and row.widths[-1] % launch.group:
            raise EngineRefusal(
                f"kv_group_size {launch.group} does not divide head_dim {row.widths[-1]}", fix="kv_group_size=32 or 64"
            )


def _warnings(rows: tuple[Row, ...], module: str, launch: Launch, model: Model) -> tuple[str, ...]:
    found = []
    laws = [part.law for kind in model.blocks.values() for part in kind.lower()]
    if any(isinstance(law, Windowed) for law in laws) and not any(row.growth == "rotating" for row in rows):
        found.append("MLX-LM keeps every token in the sliding layers of this model")
    if launch.max_kv_size is not None and module in OWN_CACHES:
        found.append("max_kv_size is ignored: this model makes its own caches")
    if launch.bits and any(row.role == "list" for row in rows):
        found.append("kv_bits is ignored where a layer has several caches")
    return tuple(found)


ENGINE = MlxEngine()
