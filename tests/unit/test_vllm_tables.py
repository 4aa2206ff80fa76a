"""vLLM's tables as literals: its attention backends, rules by release and KV cache types.

Facts of vLLM 0.33.0 (or of the release named), written down again from the places that each test cites.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.engines.vllm import backends, cachedtypes
from kvcalc.engines.vllm.backends import Backend, Query, common_block, common_layout, head_backend, latent_backend
from kvcalc.engines.vllm.versions import RULES, Rules, _history
from kvcalc.errors import EngineRefusal, UsageError

# Releases. Source: v1/core/kv_cache_utils.py, v1/kv_cache_interface.py and config/*.py of each release line.

NAMES = (
    "tokens_by_blocks", "in_flight_batches", "null_block_reserved", "check_by_layers", "mamba2_checkpoint",
    "gdn_checkpoint", "hybrid_caching", "pads_attention", "group_ratio", "gpu_memory_utilization",
)  # fmt: skip
#: In the order of NAMES, a sign per switch; then the ratio of groups and the fraction of the GPU.
RELEASES: dict[str, tuple[str, float, float]] = {
    "0.33": ("-++-++++", 1.5, 0.92),
    "0.32": ("-++-+-++", 1.5, 0.92),
    "0.31 0.30 0.29": ("-++---++", 1.5, 0.92),
    "0.28 0.27 0.26": ("-+----++", 1.5, 0.92),
    "0.25 0.24": ("-------+", 1.5, 0.92),
    "0.23 0.22 0.21 0.20": ("--------", 1.5, 0.92),
    "0.19 0.18": ("+-------", 1.5, 0.9),
    "0.17 0.16 0.15 0.14": ("+-------", 1.25, 0.9),
    "0.13 0.12": ("+--+----", 1.25, 0.9),
    "0.11 0.10 0.9": ("+--+----", 1.0, 0.9),
}


def test_rules_of_every_release() -> None:
    """Each release line with all its rules, newest first; the defaults of Rules are those of the newest."""
    rows = [
        (line, [*(sign == "+" for sign in signs), ratio, fraction])
        for lines, (signs, ratio, fraction) in RELEASES.items()
        for line in lines.split()
    ]
    for made in (RULES, _history()):
        assert [(line, [getattr(rules, name) for name in NAMES]) for line, rules in made.items()] == rows
    assert Rules() == RULES["0.33"]


# Backends. Source: each class under v1/attention/backends (supported_kv_cache_dtypes,
# get_supported_kernel_block_sizes, supports_compute_capability, get_supported_head_sizes).

SIXTEEN = ("auto", "bfloat16", "float16")
E4M3 = ("fp8", "fp8_e4m3")
INFER = (*SIXTEEN, "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4")
ALL, WIDE, READS = (8, 9, 10, 12), (64, 128, 256, 512), ("LBHNC", "BLHNC")
TURBO = ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc")
TRITON = (*SIXTEEN, *E4M3, "fp8_e5m2", "int8_per_token_head", "fp8_per_token_head", "int4_per_token_head")
#: constant: (name, types, sizes, any multiple of, majors, head sizes, rows to align, windows, layouts).
BACKENDS: dict[str, tuple[Any, ...]] = {
    "FLASH_ATTN": ("FLASH_ATTN", SIXTEEN, (), 16, ALL, (), 0, True, ()),
    "FLASH_ATTN_FP8_512": ("FLASH_ATTN", E4M3, (64,), 0, (9,), (), 0, True, ()),
    "FLASHINFER": ("FLASHINFER", INFER, (16, 32, 64), 0, (10,), WIDE, 0, True, READS),
    "FLASHINFER_ANY": ("FLASHINFER", INFER, (16, 32, 64), 0, (8, 9, 12), WIDE, 0, True, ()),
    "FLASHINFER_LARGE": ("FLASHINFER", INFER, (16, 32, 64, 128, 256, 512, 1024), 0, (10,), WIDE, 0, True, READS),
    "TRITON": ("TRITON_ATTN", TRITON, (), 16, ALL, (), 0, True, ()),
    "TURBO": ("TURBOQUANT", TURBO, (16, 32, 64, 128), 0, ALL, (), 0, False, ("LBNHC",)),
    "FLASH_ATTN_MLA": ("FLASH_ATTN_MLA", SIXTEEN, (), 16, (9,), (), 0, True, ()),
    "FLASHMLA": ("FLASHMLA", (*SIXTEEN, *E4M3), (64,), 0, (9,), (), 0, True, ()),
    "FLASHINFER_MLA": ("FLASHINFER_MLA", (*SIXTEEN, *E4M3), (32, 64), 0, (10,), (), 0, True, ()),
    "CUTLASS_MLA": ("CUTLASS_MLA", (*SIXTEEN, *E4M3), (128,), 0, (10,), (), 0, True, ()),
    "TRITON_MLA": ("TRITON_MLA", (*SIXTEEN, *E4M3), (), 16, ALL, (), 0, True, ()),
    "INDEXER": ("DEEPSEEK_V32_INDEXER", (), (64,), 0, ALL, (), 0, True, ()),
    "SPARSE_FA": ("FLASH_ATTN_MLA_SPARSE", SIXTEEN, (), 64, (9,), (), 1, True, ()),
    "SPARSE_FLASHMLA": (
        "FLASHMLA_SPARSE", ("auto", "bfloat16", "fp8", "fp8_ds_mla"), (), 64, (9,), (), 0, True, (),
    ),
    "SPARSE_FLASHMLA_100": (
        "FLASHMLA_SPARSE", ("auto", "bfloat16", "fp8", "fp8_ds_mla", "nvfp4_ds_mla"), (), 64, (10,), (), 1, True, (),
    ),
    "SPARSE_FLASHINFER": ("FLASHINFER_MLA_SPARSE", (*SIXTEEN, *E4M3), (), 32, (10,), (), 32, True, ()),
    "SPARSE_FA4": ("FLASH_ATTN_MLA_SPARSE_FA4", ("auto", "bfloat16"), (), 64, (10,), (), 64, True, ()),
}  # fmt: skip


def fields(backend: Backend) -> tuple[Any, ...]:
    return (
        backend.name, backend.dtypes, backend.sizes, backend.multiple_of, backend.majors, backend.head_sizes,
        backend.align_rows, backend.windows, backend.layouts,
    )  # fmt: skip


def test_every_backend() -> None:
    """Each of them in full: FLASH_ATTN, FLASH_ATTN_FP8_512, FLASHINFER, FLASHINFER_ANY, FLASHINFER_LARGE, TRITON,
    TURBO, FLASH_ATTN_MLA, FLASHMLA, FLASHINFER_MLA, CUTLASS_MLA, TRITON_MLA, INDEXER, SPARSE_FA, SPARSE_FLASHMLA,
    SPARSE_FLASHMLA_100, SPARSE_FLASHINFER and SPARSE_FA4, and none beside them."""
    found = {name: fields(value) for name, value in vars(backends).items() if isinstance(value, Backend)}
    assert found == BACKENDS
    assert backends.DEFAULT_BLOCK == 16
    assert (backends._FP8_FROM, backends._FLASH_WIDEST, backends._E4M3) == (89, 512, E4M3)


def query(**more: Any) -> Query:
    given: dict[str, Any] = {"capability": 90, "dtype": "auto", "head_size": 128, "value_size": 128}
    given |= {"block_tokens": None, "heads": 32, "groups": 8}
    return Query(**(given | more))


def test_fp8_flash_attention_in_full() -> None:
    """Hopper: 16-bit and e4m3 in multiples of 16, in 64s at a head of 512; Blackwell: up to a head of 128."""
    plain = ("FLASH_ATTN", (*SIXTEEN, *E4M3), (), 16, ALL, (), 0, True, ())
    for dtype in E4M3:
        assert fields(head_backend(query(dtype=dtype))) == plain
        assert fields(head_backend(query(dtype=dtype, head_size=504))) == plain
        assert fields(head_backend(query(dtype=dtype, head_size=504, model_head_size=504))) == plain
        assert head_backend(query(dtype=dtype, model_head_size=512)) is backends.FLASH_ATTN_FP8_512
        blackwell = query(capability=103, dtype=dtype, head_size=120)
        assert fields(head_backend(blackwell)) == plain
    fields_of_wide = fields(head_backend(query(capability=103, dtype="fp8", head_size=512, flashinfer=False)))
    assert fields_of_wide == BACKENDS["TRITON"]


def test_defaults_of_a_query() -> None:
    """Neither windowed nor with sinks, no wider head in the model, and FlashInfer is there."""
    asked = query()
    assert (asked.windowed, asked.sinks, asked.model_head_size, asked.flashinfer) == (False, False, 0, True)


def test_blocks_of_grouped_heads_on_blackwell() -> None:
    """Two query heads or more per KV head have kernel blocks up to 1024 (trtllm-gen), one has up to 64."""
    for heads, groups, largest in ((2, 1, 1024), (1, 1, 64), (15, 8, 64), (16, 8, 1024), (0, 0, 64), (3, 0, 64)):
        assert max(head_backend(query(capability=100, heads=heads, groups=groups)).sizes) == largest


CC, TYPE, HEAD, BLOCK = (
    f"{what} not supported" for what in ("compute capability", "kv_cache_dtype", "head_size", "block_size")
)
SINKS, OLD, N64 = (
    "attention sinks not supported",
    "fp8 KV needs compute capability 8.9",
    "nvfp4 not supported at head_size 64",
)
#: Why each of FLASH_ATTN, FLASHINFER, TRITON_ATTN and TURBOQUANT does not take the layer.
REASONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"capability": 75}, (CC, CC, CC, CC)),
    ({"capability": 88, "dtype": "fp8", "head_size": 96}, (TYPE, HEAD, OLD, TYPE)),
    ({"block_tokens": 24}, (BLOCK, BLOCK, BLOCK, TYPE)),
    ({"capability": 120, "dtype": "nvfp4", "sinks": True}, (TYPE, SINKS, TYPE, TYPE)),
    ({"capability": 120, "dtype": "nvfp4", "head_size": 64}, (TYPE, N64, TYPE, TYPE)),
    ({"dtype": "turboquant_k8v4", "windowed": True}, (TYPE, TYPE, TYPE, "sliding window not supported")),
]


def test_every_candidate_says_why_it_refuses() -> None:
    """The first failing check of each backend, in the order vLLM asks them."""
    names = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "TURBOQUANT")
    for asked, reasons in REASONS:
        with pytest.raises(EngineRefusal) as refused:
            head_backend(query(**asked))
        block = f", block_size {asked['block_tokens']}" if "block_tokens" in asked else ""
        dtype, size = asked.get("dtype", "auto"), asked.get("head_size", 128)
        each = "; ".join(f"{name}: {reason}" for name, reason in zip(names, reasons, strict=True))
        assert str(refused.value) == (
            f"no valid attention backend on sm{asked.get('capability', 90)} for kv_cache_dtype {dtype}, head size "
            f"{size}{block} ({each})"
        )
        assert (refused.value.field, refused.value.value) == ("kv_cache_dtype", dtype)


def test_no_sparse_latents_elsewhere() -> None:
    """Sparse MLA has kernels on Hopper and sm100 only; of sm90 both candidates say why not."""
    with pytest.raises(EngineRefusal, match=r"head size 576 \(no sparse MLA backend on sm89\)"):
        latent_backend(query(capability=89, head_size=576), sparse=True)
    with pytest.raises(EngineRefusal, match=r"\(FLASH_ATTN_MLA_SPARSE: kv_cache_dtype not supported; FLASHMLA_SPARSE"):
        latent_backend(query(dtype="nvfp4_ds_mla", head_size=576), sparse=True)


def sparse_names(heads: int, dtype: str) -> list[str]:
    return [backend.name for backend in backends._sparse_blackwell(query(capability=100, heads=heads, dtype=dtype))]


def test_sparse_candidates_on_blackwell() -> None:
    """Quantised: FlashInfer first; up to 16 heads FA4 before both; more: FlashMLA first."""
    assert sparse_names(8, "fp8") == ["FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE"]
    for dtype in SIXTEEN:
        assert sparse_names(16, dtype) == [
            "FLASH_ATTN_MLA_SPARSE_FA4", "FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE",
        ]  # fmt: skip
        assert sparse_names(17, dtype) == ["FLASHMLA_SPARSE", "FLASHINFER_MLA_SPARSE"]


def test_blocks_and_layouts_in_common() -> None:
    """One backend: 16 or its smallest; several: 16 where all take it, else the smallest product all divide."""
    assert [common_block([one]) for one in (backends.FLASHMLA, backends.CUTLASS_MLA, backends.TRITON)] == [64, 128, 16]
    assert common_block([backends.FLASHINFER, backends.TRITON]) == 16
    assert common_block([backends.FLASHINFER_MLA, backends.INDEXER]) == 64  # lcm of 32 or 64 with 64
    assert common_block([backends.TRITON, backends.INDEXER]) == 64
    assert common_block([backends.CUTLASS_MLA, backends.FLASHINFER_MLA]) == 128
    assert common_layout([backends.FLASH_ATTN, backends.FLASHINFER]) == "LBHNC"
    assert common_layout([backends.TURBO, backends.FLASH_ATTN]) == "LBNHC"
    with pytest.raises(EngineRefusal, match=r"\(TURBOQUANT LBNHC, FLASHINFER LBHNC/BLHNC\)") as refused:
        common_layout([backends.TURBO, backends.TRITON, backends.FLASHINFER])
    assert refused.value.field == "kv_cache_dtype"


# KV cache types. Source: config/cache.py CacheDType; utils/torch_utils.py; quantization/turboquant/config.py.


@pytest.mark.parametrize(
    ("asked", "model", "name"),
    [
        ("bfloat16", "bfloat16", "auto"), ("bfloat16", "float16", "bfloat16"), ("float16", "bfloat16", "float16"),
        ("float32", "float32", "auto"), ("bfloat16", "float32", "bfloat16"), ("fp8_e4m3", "bfloat16", "fp8"),
        ("fp8_e5m2", "bfloat16", "fp8_e5m2"), ("nvfp4", "bfloat16", "nvfp4"), ("float32", "bfloat16", ""),
        ("int8", "bfloat16", ""), ("fp8", "bfloat16", ""), ("auto", "bfloat16", ""),
    ],
)  # fmt: skip
def test_vllms_word_for_a_type(asked: str, model: str, name: str) -> None:
    """`auto` for the model's own type, vLLM's name for others, a refusal for what it does not store."""
    if name:
        assert cachedtypes.vllm_name(asked, asked, model) == name
        return
    with pytest.raises(EngineRefusal, match=f"no KV cache dtype {asked}$") as refused:
        cachedtypes.vllm_name(asked, asked, model)
    assert (refused.value.field, refused.value.value) == ("kv-dtype", asked)
    assert "one of: bfloat16, float16, fp8_e4m3, fp8_e5m2, nvfp4;" in str(refused.value.fix)


def test_kinds_of_cache_types() -> None:
    """Which names are 16-bit, 8-bit, packed, and which vLLM takes for one storage."""
    eight = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla", "nvfp4_ds_mla")
    names = (*SIXTEEN, *eight, *TURBO, *TRITON[-3:], "nvfp4")
    assert names == cachedtypes.CACHE_DTYPES
    assert [name for name in cachedtypes.CACHE_DTYPES if not cachedtypes.is_quantized(name)] == list(SIXTEEN)
    stored = {name: cachedtypes.storage(name, "float16") for name in cachedtypes.CACHE_DTYPES}
    changed = {"auto": "float16", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}
    assert stored == {name: name for name in cachedtypes.CACHE_DTYPES} | changed
    assert cachedtypes.DS_MLA == {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # Widths 36 (K) and 20 (V): bytes of K, of V, and of what stands beside them.
        ("auto", 4 * (36 + 20)), ("bfloat16", 4 * (36 + 20)), ("float16", 4 * (36 + 20)), ("fp8", 36 + 20),
        ("fp8_e4m3", 36 + 20), ("fp8_e5m2", 36 + 20),
        ("turboquant_k8v4", 36 + 10 + 4), ("turboquant_4bit_nc", 18 + 2 + 10 + 4),
        ("turboquant_k3v4_nc", 14 + 2 + 10 + 4),  # 108 bits: 13.5 bytes
        ("turboquant_3bit_nc", 14 + 2 + 8 + 4),  # 60 bits: 7.5 bytes
        ("int8_per_token_head", 56 + 8), ("fp8_per_token_head", 56 + 8), ("int4_per_token_head", 18 + 10 + 8),
    ],
)  # fmt: skip
def test_bytes_of_unequal_heads(name: str, size: int) -> None:
    """K of 36 and V of 20 elements; 16-bit names take the model's own width, here 4 bytes."""
    made = cachedtypes.head_bytes(name, 36, 20, 4)
    assert (made, type(made)) == (size, int)


def test_head_types_that_heads_do_not_have() -> None:
    """nvfp4 wants equal widths (then half a byte and one scale per 16, twice); latent rows are for latents."""
    made = cachedtypes.head_bytes("nvfp4", 80, 80, 2)
    assert (made, type(made)) == (2 * (40 + 5), int)
    assert cachedtypes.head_bytes("nvfp4", 72, 72, 2) == 2 * (36 + 4)
    with pytest.raises(EngineRefusal, match="equal K and V head widths"):
        cachedtypes.head_bytes("nvfp4", 80, 64, 2)
    for name in ("fp8_ds_mla", "nvfp4_ds_mla"):
        with pytest.raises(UsageError, match=f"{name} is a layout of latent attention only"):
            cachedtypes.head_bytes(name, 64, 64, 2)
