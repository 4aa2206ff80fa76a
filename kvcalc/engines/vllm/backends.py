"""Which attention backend vLLM picks on a GPU: it decides block sizes, strides and which KV dtypes exist.

Only what changes the cache is modelled. FlashInfer counts as installed: vLLM's CUDA wheel requires it. Without
its kernels (no flashinfer-cubin, no nvcc) an 8-bit cache on sm80 to sm88 and nvfp4 have no backend.

Source: vLLM 0.33.0 platforms/cuda.py `_get_backend_priorities`, v1/attention/backend.py
`validate_configuration`, and each backend's class.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import lcm

from kvcalc.engines.vllm.cachedtypes import DS_MLA, FP8, NATIVE, PER_TOKEN_HEAD, TURBOQUANT
from kvcalc.errors import EngineRefusal

DEFAULT_BLOCK = 16
_E4M3 = ("fp8", "fp8_e4m3")
#: native fp8 conversion in Triton kernels; FlashAttention's widest head.
_FP8_FROM, _FLASH_WIDEST = 89, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One attention backend.

    sizes: exact kernel block sizes it takes; multiple_of: or any multiple of this.
    align_rows: packed blocks must keep whole pages of this many rows (0: no such rule).
    layouts: orders of the pool's dimensions its kernels read, preferred first; none: any.
    """

    name: str
    dtypes: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    multiple_of: int = 0
    majors: tuple[int, ...] = (8, 9, 10, 12)
    head_sizes: tuple[int, ...] = ()
    align_rows: int = 0
    windows: bool = True
    layouts: tuple[str, ...] = ()

    @property
    def smallest(self) -> int:
        """The smallest kernel block it takes."""
        return min(size for size in (*self.sizes, self.multiple_of) if size)

    def takes_block(self, block_tokens: int) -> bool:
        """A block size is fine when some kernel block divides it."""
        return any(block_tokens % size == 0 for size in (*self.sizes, self.multiple_of) if size)

    def preferred_block(self) -> int:
        """Source: AttentionBackend.get_preferred_block_size."""
        return DEFAULT_BLOCK if self.takes_block(DEFAULT_BLOCK) else self.smallest

    @property
    def stride_multiple(self) -> int:
        """Backends with fixed sizes only need packed blocks in whole kernel blocks (customize_attention_spec)."""
        return max(self.sizes) if self.sizes and not self.multiple_of and not self.align_rows else 0


FLASH_ATTN = Backend(name="FLASH_ATTN", dtypes=NATIVE, multiple_of=16)
#: FA4 reads fp8 at head size 512 on Hopper in tiles of 64 tokens, and then asks that of every layer.
FLASH_ATTN_FP8_512 = Backend(name="FLASH_ATTN", dtypes=_E4M3, sizes=(64,), majors=(9,))
FLASHINFER = Backend(
    name="FLASHINFER",
    dtypes=(*NATIVE, *FP8, "nvfp4"),
    sizes=(16, 32, 64),
    majors=(10,),
    head_sizes=(64, 128, 256, 512),
    layouts=("LBHNC", "BLHNC"),
)
#: Elsewhere than on sm100 its kernels read any layout.
FLASHINFER_ANY = Backend(
    name="FLASHINFER",
    dtypes=FLASHINFER.dtypes,
    sizes=FLASHINFER.sizes,
    majors=(8, 9, 12),
    head_sizes=FLASHINFER.head_sizes,
)
FLASHINFER_LARGE = Backend(
    name="FLASHINFER",
    dtypes=FLASHINFER.dtypes,
    sizes=(16, 32, 64, 128, 256, 512, 1024),
    majors=(10,),
    head_sizes=FLASHINFER.head_sizes,
    layouts=FLASHINFER.layouts,
)
TRITON = Backend(name="TRITON_ATTN", dtypes=(*NATIVE, *FP8, *PER_TOKEN_HEAD), multiple_of=16)
TURBO = Backend(name="TURBOQUANT", dtypes=tuple(TURBOQUANT), sizes=(16, 32, 64, 128), windows=False, layouts=("LBNHC",))

FLASH_ATTN_MLA = Backend(name="FLASH_ATTN_MLA", dtypes=NATIVE, multiple_of=16, majors=(9,))
FLASHMLA = Backend(name="FLASHMLA", dtypes=(*NATIVE, *_E4M3), sizes=(64,), majors=(9,))
FLASHINFER_MLA = Backend(name="FLASHINFER_MLA", dtypes=(*NATIVE, *_E4M3), sizes=(32, 64), majors=(10,))
CUTLASS_MLA = Backend(name="CUTLASS_MLA", dtypes=(*NATIVE, *_E4M3), sizes=(128,), majors=(10,))
TRITON_MLA = Backend(name="TRITON_MLA", dtypes=(*NATIVE, *_E4M3), multiple_of=16)

INDEXER = Backend(name="DEEPSEEK_V32_INDEXER", dtypes=(), sizes=(64,))
SPARSE_FA = Backend(name="FLASH_ATTN_MLA_SPARSE", dtypes=NATIVE, multiple_of=64, majors=(9,), align_rows=1)
SPARSE_FLASHMLA = Backend(
    name="FLASHMLA_SPARSE", dtypes=("auto", "bfloat16", "fp8", "fp8_ds_mla"), multiple_of=64, majors=(9,)
)
SPARSE_FLASHMLA_100 = Backend(
    name="FLASHMLA_SPARSE",
    dtypes=("auto", "bfloat16", "fp8", *DS_MLA),
    multiple_of=64,
    majors=(10,),
    align_rows=1,
)
SPARSE_FLASHINFER = Backend(
    name="FLASHINFER_MLA_SPARSE", dtypes=(*NATIVE, *_E4M3), multiple_of=32, majors=(10,), align_rows=32
)
SPARSE_FA4 = Backend(
    name="FLASH_ATTN_MLA_SPARSE_FA4", dtypes=("auto", "bfloat16"), multiple_of=64, majors=(10,), align_rows=64
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a layer asks of a backend. capability: 80, 90, 100 ...; heads: query heads per rank."""

    capability: int
    dtype: str
    head_size: int
    value_size: int
    block_tokens: int | None
    heads: int
    groups: int
    windowed: bool = False
    model_head_size: int = 0
    sinks: bool = False
    flashinfer: bool = True


def head_backend(query: Query) -> Backend:
    """The backend of a layer with K and V heads.

    Raises: EngineRefusal when none takes it.
    """
    reasons = []
    for backend in _head_candidates(query):
        reason = _refuses(backend, query)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise _none(query, reasons)


def _head_candidates(query: Query) -> list[Backend]:
    major = query.capability // 10
    flash = FLASH_ATTN
    if query.dtype in _E4M3:
        # fp8 needs FA3 (Hopper) or FA4 (Blackwell up to head size 128, Hopper at 512).
        if major == 9:
            wide = max(query.model_head_size, query.head_size) == 512
            flash = FLASH_ATTN_FP8_512 if wide else Backend(name="FLASH_ATTN", dtypes=(*NATIVE, *_E4M3), multiple_of=16)
        elif major == 10 and query.head_size <= 128:
            flash = Backend(name="FLASH_ATTN", dtypes=(*NATIVE, *_E4M3), multiple_of=16)
    if not query.flashinfer:
        return [flash, TRITON, TURBO]
    if major == 10:
        large = query.groups > 0 and query.heads // query.groups > 1
        return [FLASHINFER_LARGE if large else FLASHINFER, flash, TRITON, TURBO]
    return [flash, FLASHINFER_ANY, TRITON, TURBO]


def _refuses(backend: Backend, query: Query) -> str | None:
    """Why `backend` does not take the layer; None when it does."""
    major = query.capability // 10
    flash = backend.name == "FLASH_ATTN"
    triton_fp8 = backend.name.startswith("TRITON") and query.dtype.startswith("fp8")
    # FlashInfer: sinks from Hopper on; its FA2 kernels misread nvfp4 with sinks or heads of 64.
    # Source: flashinfer.py supports_sink, supports_combination.
    sinks_fine = backend is not FLASHINFER_ANY or not query.sinks or (major >= 9 and query.dtype != "nvfp4")
    nvfp4_64 = backend is FLASHINFER_ANY and query.dtype == "nvfp4" and query.head_size == 64
    checks = (
        (major in backend.majors, "compute capability not supported"),
        (query.dtype in backend.dtypes, "kv_cache_dtype not supported"),
        (not triton_fp8 or query.capability >= _FP8_FROM, "fp8 KV needs compute capability 8.9"),
        (sinks_fine, "attention sinks not supported"),
        (not nvfp4_64, "nvfp4 not supported at head_size 64"),
        (query.block_tokens is None or backend.takes_block(query.block_tokens), "block_size not supported"),
        (not backend.head_sizes or query.head_size in backend.head_sizes, "head_size not supported"),
        (not flash or (query.head_size % 8 == 0 and query.head_size <= _FLASH_WIDEST), "head_size not supported"),
        (backend.windows or not query.windowed, "sliding window not supported"),
    )
    return next((reason for fine, reason in checks if not fine), None)


def latent_backend(query: Query, *, sparse: bool) -> Backend:
    """The backend of latent attention (MLA), dense or with a sparse indexer.

    Raises: EngineRefusal when none takes it.
    """
    major = query.capability // 10
    if sparse:
        candidates = {9: [SPARSE_FA, SPARSE_FLASHMLA], 10: _sparse_blackwell(query)}.get(major, [])
    elif major == 10:
        candidates = [FLASHINFER_MLA, CUTLASS_MLA, TRITON_MLA]
    else:
        candidates = [FLASH_ATTN_MLA, FLASHMLA, TRITON_MLA]
    reasons = []
    for backend in candidates:
        reason = _refuses(backend, query)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise _none(query, reasons or [f"no sparse MLA backend on sm{query.capability}"])


def _sparse_blackwell(query: Query) -> list[Backend]:
    if query.dtype not in NATIVE:
        return [SPARSE_FLASHINFER, SPARSE_FLASHMLA_100]
    if query.heads <= 16:
        return [SPARSE_FA4, SPARSE_FLASHINFER, SPARSE_FLASHMLA_100]
    return [SPARSE_FLASHMLA_100, SPARSE_FLASHINFER]


def _none(query: Query, reasons: list[str]) -> EngineRefusal:
    block = "" if query.block_tokens is None else f", block_size {query.block_tokens}"
    return EngineRefusal(
        f"no valid attention backend on sm{query.capability} for kv_cache_dtype {query.dtype}, head size "
        f"{query.head_size}{block} ({'; '.join(reasons)})",
        fix="choose another KV cache dtype or block size",
        field="kv_cache_dtype",
        value=query.dtype,
    )


def common_layout(backends: list[Backend]) -> str:
    """The order of the pool's dimensions (L layer, B block, H head, N token, C content) that all backends read.

    Raises: EngineRefusal when there is none.
    Source: v1/attention/backends/utils.py `get_supported_kv_cache_layouts`.
    """
    offers = [backend.layouts for backend in backends if backend.layouts]
    if not offers:
        return "LBNHC"
    shared = [layout for layout in offers[0] if all(layout in offer for offer in offers)]
    if not shared:
        names = ", ".join(f"{backend.name} {'/'.join(backend.layouts)}" for backend in backends if backend.layouts)
        raise EngineRefusal(
            f"no KV cache layout suits every attention backend ({names})",
            fix="choose another KV cache dtype",
            field="kv_cache_dtype",
        )
    return shared[0]


def common_block(backends: list[Backend]) -> int:
    """The block size vLLM chooses when none is asked for: the smallest that every backend takes.

    Source: platforms/interface.py `_preferred_block_size_for_backends`.
    """
    if len(backends) == 1:
        return backends[0].preferred_block()
    if all(backend.takes_block(DEFAULT_BLOCK) for backend in backends):
        return DEFAULT_BLOCK
    offers = [[size for size in (*backend.sizes, backend.multiple_of) if size] for backend in backends]
    return min(lcm(*sizes) for sizes in product(*offers))  # a backend takes any multiple of one of its sizes


def largest_kernel_block(backend: Backend, token_bytes: int, page_budget: int) -> int:
    """The largest kernel block whose page fits `page_budget`; the smallest one when none does.

    Source: model_executor/layers/attention/attention.py `_largest_kernel_block_within`.
    """
    most = page_budget // token_bytes
    candidates = list(backend.sizes)
    if backend.multiple_of:
        candidates.append(max(backend.multiple_of, most // backend.multiple_of * backend.multiple_of))
    fitting = [block for block in candidates if block * token_bytes <= page_budget]
    return max(fitting) if fitting else min(candidates)
