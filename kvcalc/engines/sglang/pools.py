"""SGLang's pools of KV tensors: what a token is priced at, and what is really allocated for S tokens.

Every pool allocates one page more than it has tokens: page 0 takes the writes of padded requests.

Source: sglang 0.5.23, srt/model_executor/pool_configurator.py (prices), srt/mem_cache/memory_pool.py
`MHATokenToKVPool`, `MHATokenToKVPoolMXFP8`, `MLATokenToKVPool`, `DSATokenToKVPool`, `MiniMaxSparseKVPool`,
srt/mem_cache/index_key_cache.py, srt/layers/quantization/fp4_kv_cache_quant_method.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from kvcalc.engines.sglang.geometry import Attention, Geometry, Stage
from kvcalc.engines.sglang.settings import TORCH, Settings
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div

#: Indexer keys: fp8 with one float32 scale per 128 elements (`DSATokenToKVPool.quant_block_size`).
INDEX_BLOCK = 128
#: fp4 recipes keep one byte of scale per 16 elements, mxfp8 one per 32.
FP4_BLOCK = 16
MXFP8_BLOCK = 32

#: rows: one row per token and the padding page; padded: rounded up to whole pages; pages: the indexer's.
Rows = Literal["rows", "padded", "pages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """`len(layers)` equal tensors of [lead, rows, *tail] (one for all layers when `once`).

    group: the attribute of SGLang that holds them. logged: under which size the log counts them.
    dtype: kvcalc's name (bytes that are no numbers of their own, like packed fp4, are int8).
    """

    group: str
    name: str
    layers: tuple[int, ...]
    tail: tuple[int, ...]
    dtype: str
    item: int
    rows: Rows = "rows"
    lead: int = 1
    once: bool = False
    logged: Literal["k", "v", "both", "kv", "no"] = "kv"

    @property
    def count(self) -> int:
        return 1 if self.once else len(self.layers)

    def shape(self, tokens: int, page: int) -> tuple[int, ...]:
        if self.rows == "pages":
            # +1 before the division: index_key_cache.py rounds up a pool that is no whole number of pages.
            return ((tokens + page + 1) // page, *self.tail)
        rows = tokens + page
        if self.rows == "padded":
            rows = ceil_div(rows, page) * page
        return (self.lead, rows, *self.tail) if self.lead > 1 else (rows, *self.tail)

    def bytes(self, tokens: int, page: int) -> int:
        return self.count * prod(self.shape(tokens, page)) * self.item

    def logged_bytes(self, tokens: int, page: int) -> tuple[int, int]:
        """(K, V) as the log counts them: rows of real tokens and the padding page, without page rounding."""
        if self.rows == "pages" or self.logged == "no":
            return (0 if self.logged == "no" else self.bytes(tokens, page)), 0
        size = self.count * (tokens + page) * prod(self.tail) * self.item
        return (size, size) if self.logged == "both" else (0, size) if self.logged == "v" else (size, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One of SGLang's pools on one rank. tables: pointer tables, (attribute, bytes)."""

    prefix: str
    label: str
    buffers: tuple[Buffer, ...]
    tables: tuple[tuple[str, int], ...]
    torch: str
    one_size: bool = False

    def storage(self, tokens: int, page: int) -> dict[str, int]:
        """Attribute -> bytes of its tensors, all layers together."""
        found: dict[str, int] = {}
        for buffer in self.buffers:
            key = f"{self.prefix}{buffer.group}"
            found[key] = found.get(key, 0) + buffer.bytes(tokens, page)
        for name, size in self.tables:
            found[f"{self.prefix}{name}"] = size
        return {key: size for key, size in found.items() if size}

    def logged_bytes(self, tokens: int, page: int) -> tuple[int, int]:
        sizes = [buffer.logged_bytes(tokens, page) for buffer in self.buffers]
        return sum(k for k, _ in sizes), sum(v for _, v in sizes)

    def log(self, tokens: int, page: int) -> str:
        """The line SGLang prints: `_finalize_allocation_log`; its GB are GiB."""
        k, v = self.logged_bytes(tokens, page)
        head = f"{self.label}KV Cache is allocated. dtype: {self.torch}, #tokens: {tokens}, "
        if self.one_size:
            return f"{head}KV size: {k / 2**30:.2f} GB"
        return f"{head}K size: {k / 2**30:.2f} GB, V size: {v / 2**30:.2f} GB"


def heads_on_rank(heads: int, settings: Settings) -> int:
    """Floor division; a head is copied once ranks outnumber heads: `get_num_kv_heads`."""
    return max(1, heads // settings.attn_tp) if heads else 0


def token_bytes(geometry: Geometry, stage: Stage, settings: Settings) -> int:
    """`cell_size`: what one token is priced at on this stage, when there is one pool."""
    item, shape = settings.element_bytes, geometry.attention
    layers = len(stage.full)
    if geometry.latent:
        return _latent_token_bytes(geometry, stage, settings)
    heads = heads_on_rank(shape.heads, settings)
    width = heads * (shape.key_dim + shape.value_dim)
    if geometry.indexed_heads:
        # Priced from the data alone, whatever the recipe: scales of mxfp8 and fp4 are neither priced nor allocated.
        index_item = TORCH[settings.model_dtype][1]
        return layers * 2 * heads * shape.key_dim * item + len(stage.indexed) * shape.index_dim * index_item
    if settings.is_fp4:
        data = heads * (shape.key_dim // 2) * layers * 2
        scales = heads * (shape.key_dim // FP4_BLOCK) * layers * 2
        return data + scales + (heads * shape.key_dim * 2 if _needs_workspace(settings) else 0)
    cell = width * layers * item
    return cell + width * layers // MXFP8_BLOCK if settings.kv == "mxfp8" else cell


def _needs_workspace(settings: Settings) -> bool:
    """FlashInfer reads nvfp4 through an fp8 copy, one for all layers (`dequant_workspace_dtype`)."""
    return settings.kv == "nvfp4" and settings.attention_backend == "flashinfer"


def _latent_token_bytes(geometry: Geometry, stage: Stage, settings: Settings) -> int:
    width = latent_width(geometry, settings)
    layers = len(stage.full)
    cell = width * layers * settings.element_bytes
    if settings.is_fp4:
        cell = cell // 2 + geometry_width(geometry.attention) // FP4_BLOCK * layers
    if geometry.indexed_latent:
        per_token = ceil_div(index_row_bytes(geometry.attention), geometry.attention.index_group)
        cell += per_token * len(stage.indexed)
    return cell


def index_row_bytes(shape: Attention) -> int:
    """One indexer key: fp8 elements and their scales, 132 bytes for 128."""
    return shape.index_dim + shape.index_dim // INDEX_BLOCK * 4


def geometry_width(shape: Attention) -> int:
    return shape.latent_dim + shape.rope_dim


def latent_width(geometry: Geometry, settings: Settings) -> int:
    """Elements of a latent row. Indexed latents in fp8 keep scales and a bf16 rotary key in the row (656 for 512 + 64).

    Source: kv_cache_configurator.py `calculate_mla_kv_cache_dim`.

    Raises: EngineRefusal for a rank the scales do not divide.
    """
    shape = geometry.attention
    plain = geometry_width(shape)
    raw = "trtllm" in (settings.dsa_prefill, settings.dsa_decode) or (
        settings.dsa_prefill == settings.dsa_decode == "tilelang"
    )
    if not geometry.indexed_latent or raw or TORCH[settings.kv][0] != "torch.float8_e4m3fn":
        return plain
    if shape.latent_dim % INDEX_BLOCK:
        raise EngineRefusal(
            f"kv_lora_rank {shape.latent_dim} must be multiple of quant_block_size {INDEX_BLOCK}",
            fix="take a KV type other than fp8",
        )
    return shape.latent_dim + shape.latent_dim // INDEX_BLOCK * 4 + shape.rope_dim * 2


def sliding_bytes(geometry: Geometry, settings: Settings) -> tuple[int, int]:
    """(full layer, sliding layer) bytes per token and layer, when there are two pools."""
    if geometry.latent and geometry.sliding is not None:
        index = ceil_div(index_row_bytes(geometry.attention), geometry.attention.index_group)
        full = latent_width(geometry, settings) * settings.element_bytes + (index if geometry.indexed_latent else 0)
        return full, geometry_width(geometry.sliding) * settings.element_bytes
    sizes = []
    # Without full layers, which may be so on a stage, only the second price is used.
    for shape in filter(None, (geometry.full or geometry.sliding, geometry.sliding)):
        width = heads_on_rank(shape.heads, settings) * (shape.key_dim + shape.value_dim)
        sizes.append(width * settings.element_bytes + (width // MXFP8_BLOCK if settings.kv == "mxfp8" else 0))
    return sizes[0], sizes[1]


def head_pool(
    shape: Attention, layers: tuple[int, ...], settings: Settings, *, prefix: str, label: str = "", fp4: bool = True
) -> Pool:
    """A pool of K and V per head. fp4: whether the pool knows fp4 scales (the sliding ones do not).

    Raises: EngineRefusal where mxfp8 scales do not divide the head.
    """
    heads = heads_on_rank(shape.heads, settings)
    key, value = (heads, shape.key_dim), (heads, shape.value_dim)
    torch, item = TORCH[settings.kv]
    pointers = 8 * len(layers)
    tables = [("k_data_ptrs", pointers), ("v_data_ptrs", pointers)]
    moved = 2
    if settings.kv == "mxfp8":
        buffers = _mxfp8_buffers(shape, heads, layers)
    elif settings.is_fp4 and fp4:
        buffers = _fp4_buffers(heads, shape.key_dim, layers, settings)
        moved = 4  # the scales move with the slots
        if settings.kv == "nvfp4":  # one float32 per layer and side
            tables += [("quant_method.k_scales_gpu", 4 * len(layers)), ("quant_method.v_scales_gpu", 4 * len(layers))]
    else:
        dtype = "int8" if settings.is_fp4 else settings.kv
        if key == value:  # one tensor holds both, each half a whole number of pages
            buffers = (
                Buffer(group="k_buffer", name="key_value", layers=layers, tail=key, dtype=dtype, item=item,
                       rows="padded", lead=2, logged="both"),
            )  # fmt: skip
        else:
            buffers = (
                Buffer(group="k_buffer", name="key", layers=layers, tail=key, dtype=dtype, item=item, logged="k"),
                Buffer(group="v_buffer", name="value", layers=layers, tail=value, dtype=dtype, item=item, logged="v"),
            )
    tables += [("data_ptrs", moved * pointers), ("data_strides", moved * pointers)]
    return Pool(prefix=prefix, label=label, buffers=buffers, tables=tuple(tables), torch=torch)


def _mxfp8_buffers(shape: Attention, heads: int, layers: tuple[int, ...]) -> tuple[Buffer, ...]:
    found = []
    for side, width in (("k", shape.key_dim), ("v", shape.value_dim)):
        if width % MXFP8_BLOCK:
            raise EngineRefusal(
                f"MXFP8 KV cache requires head_dim divisible by {MXFP8_BLOCK}, got {width}",
                fix="choose another --kv-dtype",
                field="kv-dtype",
            )
        name = "key" if side == "k" else "value"
        logged: Literal["k", "v"] = "k" if side == "k" else "v"
        found.append(
            Buffer(group=f"{side}_buffer", name=name, layers=layers, tail=(heads, width), dtype="fp8_e4m3", item=1,
                   logged=logged)
        )  # fmt: skip
        found.append(
            Buffer(group=f"{side}_scale_buffer", name=f"{name}_scale", layers=layers,
                   tail=(heads, width // MXFP8_BLOCK), dtype="int8", item=1, logged=logged)
        )  # fmt: skip
    return tuple(found)


def _fp4_buffers(heads: int, width: int, layers: tuple[int, ...], settings: Settings) -> tuple[Buffer, ...]:
    """Packed pairs, one scale byte per 16 elements, and FlashInfer's workspace."""
    found = []
    sides: tuple[tuple[Literal["k", "v"], str], ...] = (("k", "key"), ("v", "value"))
    for side, name in sides:
        for group, label, tail in (
            (f"{side}_buffer", name, (heads, width // 2)),
            (f"{side}_scale_buffer", f"{name}_scale", (heads, width // FP4_BLOCK)),
        ):
            found.append(Buffer(group=group, name=label, layers=layers, tail=tail, dtype="int8", item=1, logged=side))
        if _needs_workspace(settings):
            found.append(
                Buffer(group=f"dq_{side}_buffer", name=f"{name}_workspace", layers=layers, tail=(heads, width),
                       dtype="fp8_e4m3", item=1, once=True, logged=side)
            )  # fmt: skip
    return tuple(found)


def latent_pool(geometry: Geometry, stage: Stage, settings: Settings, *, prefix: str) -> Pool:
    """A pool of latents, and of indexer keys where the model selects tokens."""
    shape = geometry.attention
    torch, item = TORCH[settings.kv]
    width = latent_width(geometry, settings)
    layers = stage.full
    dtype = "int8" if settings.is_fp4 else settings.kv if settings.kv != "mxfp8" else "fp8_e4m3"
    buffers = [Buffer(group="kv_buffer", name="latent", layers=layers, tail=(1, width), dtype=dtype, item=item)]
    # With an indexer the pool does not know fp4: a whole byte per element, though half is priced.
    if settings.is_fp4 and not geometry.indexed_latent and not geometry.state_layers:
        scales = width // FP4_BLOCK
        buffers = [
            Buffer(group="kv_buffer", name="latent", layers=layers, tail=(1, width // 2), dtype="int8", item=1),
            Buffer(
                group="kv_scale_buffer",
                name="latent_scale",
                layers=layers,
                tail=(scales,),
                dtype="int8",
                item=1,
                logged="no",
            ),  # `MLATokenToKVPool.get_kv_size_bytes` leaves the scales out
        ]
    if geometry.indexed_latent:
        entries = settings.page // shape.index_group * index_row_bytes(shape)
        buffers.append(
            Buffer(group="index_key_cache.buffer", name="index_key", layers=stage.indexed, tail=(entries,),
                   dtype="int8", item=1, rows="pages")
        )  # fmt: skip
    return Pool(
        prefix=prefix,
        label="",
        buffers=tuple(buffers),
        tables=(("data_ptrs", 8 * len(layers)),),
        torch=torch,
        one_size=True,
    )


def sliding_latent_pool(shape: Attention, layers: tuple[int, ...], settings: Settings) -> Pool:
    """A pool of the latents of sliding layers: dots3."""
    torch, item = TORCH[settings.kv]
    dtype = "int8" if settings.is_fp4 else settings.kv if settings.kv != "mxfp8" else "fp8_e4m3"
    tail = (1, geometry_width(shape))
    latent = Buffer(group="kv_buffer", name="latent", layers=layers, tail=tail, dtype=dtype, item=item)
    tables = (("data_ptrs", 8 * len(layers)),)
    return Pool(prefix="kv.swa_kv_pool.", label="SWA ", buffers=(latent,), tables=tables, torch=torch, one_size=True)


def indexed_head_pools(geometry: Geometry, stage: Stage, settings: Settings) -> tuple[Pool, Pool]:
    """MiniMax-M3: K and V of all layers, and one index key per token on the sparse ones, in the model's type."""
    shape = geometry.attention
    main = head_pool(shape, stage.full, _plain_scales(settings), prefix="kv.main_pool.", fp4=False)
    torch, item = TORCH[settings.model_dtype]
    keys = Buffer(
        group="k_buffer", name="index_key", layers=stage.indexed, tail=(1, shape.index_dim),
        dtype=settings.model_dtype, item=item, logged="k",
    )  # fmt: skip
    return main, Pool(prefix="kv.index_k_pool.", label="", buffers=(keys,), tables=(), torch=torch)


def _plain_scales(settings: Settings) -> Settings:
    """The sparse pool ignores mxfp8's scales."""
    from dataclasses import replace

    return replace(settings, kv="fp8_e4m3") if settings.kv == "mxfp8" else settings
