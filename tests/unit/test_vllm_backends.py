"""Which attention backend vLLM picks, by GPU, cache type and head: the first of its list that takes the layer.

Source: vLLM 0.33.0 platforms/cuda.py `_get_backend_priorities`, v1/attention/backend.py `validate_configuration`.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.engines.vllm.backends import Backend, Query, head_backend, largest_kernel_block, latent_backend
from kvcalc.errors import EngineRefusal


def query(**more: Any) -> Query:
    given: dict[str, Any] = {"capability": 90, "dtype": "auto", "head_size": 128, "value_size": 128}
    given |= {"block_tokens": None, "heads": 32, "groups": 8}
    return Query(**(given | more))


HEAD: list[tuple[dict[str, Any], str]] = [
    ({}, "FLASH_ATTN"),
    ({"capability": 80}, "FLASH_ATTN"),
    ({"capability": 120}, "FLASH_ATTN"),
    ({"capability": 100}, "FLASHINFER"),
    ({"capability": 100, "head_size": 96}, "FLASH_ATTN"),
    ({"capability": 100, "flashinfer": False}, "FLASH_ATTN"),
    ({"dtype": "fp8"}, "FLASH_ATTN"),
    ({"dtype": "fp8_e5m2"}, "FLASHINFER"),
    ({"dtype": "fp8", "capability": 80}, "FLASHINFER"),
    ({"dtype": "fp8", "capability": 89, "flashinfer": False}, "TRITON_ATTN"),
    ({"dtype": "fp8", "capability": 100, "head_size": 96}, "FLASH_ATTN"),
    ({"dtype": "fp8", "capability": 100, "head_size": 128, "flashinfer": False}, "FLASH_ATTN"),
    ({"dtype": "fp8", "capability": 100, "head_size": 136}, "TRITON_ATTN"),
    ({"dtype": "fp8_e5m2", "head_size": 80}, "TRITON_ATTN"),
    ({"dtype": "fp8", "head_size": 512}, "FLASH_ATTN"),
    ({"head_size": 512}, "FLASH_ATTN"),
    ({"head_size": 520}, "TRITON_ATTN"),
    ({"head_size": 100}, "TRITON_ATTN"),
    ({"dtype": "nvfp4", "capability": 100}, "FLASHINFER"),
    ({"dtype": "nvfp4", "capability": 120}, "FLASHINFER"),
    ({"dtype": "nvfp4", "capability": 100, "head_size": 64}, "FLASHINFER"),
    ({"dtype": "int8_per_token_head"}, "TRITON_ATTN"),
    ({"dtype": "turboquant_k8v4"}, "TURBOQUANT"),
    ({"dtype": "fp8_e5m2", "sinks": True}, "FLASHINFER"),
    ({"dtype": "fp8_e5m2", "sinks": True, "capability": 89}, "TRITON_ATTN"),
    ({"block_tokens": 8, "dtype": "auto"}, ""),
    ({"block_tokens": 48}, "FLASH_ATTN"),
    ({"dtype": "turboquant_k8v4", "windowed": True}, ""),
    ({"dtype": "nvfp4", "capability": 120, "head_size": 64}, ""),
    ({"dtype": "nvfp4", "capability": 120, "sinks": True}, ""),
    ({"dtype": "nvfp4", "flashinfer": False}, ""),
    ({"dtype": "fp8", "capability": 80, "flashinfer": False}, ""),
    ({"capability": 110}, ""),
    ({"dtype": "nvfp4", "sinks": True}, ""),
    ({"dtype": "nvfp4"}, "FLASHINFER"),
    ({"dtype": "nvfp4", "capability": 89}, "FLASHINFER"),
    ({"dtype": "fp8", "capability": 89, "head_size": 96}, "TRITON_ATTN"),
    ({"dtype": "fp8", "capability": 88, "head_size": 96}, ""),
    ({"dtype": "turboquant_k8v4", "capability": 100}, "TURBOQUANT"),
    ({"windowed": True}, "FLASH_ATTN"),
]


def test_backend_of_heads() -> None:
    """The name, or a refusal that names every candidate's reason."""
    for asked, name in HEAD:
        if name:
            assert head_backend(query(**asked)).name == name, asked
            continue
        with pytest.raises(EngineRefusal, match="no valid attention backend"):
            head_backend(query(**asked))


def test_kernel_blocks_of_heads() -> None:
    """FlashAttention: multiples of 16, fp8 at width 512 on Hopper 64; FlashInfer larger ones with grouped heads."""
    assert head_backend(query()).smallest == 16
    assert head_backend(query(dtype="fp8", head_size=512)).sizes == (64,)
    assert head_backend(query(dtype="fp8", model_head_size=512)).sizes == (64,)
    assert head_backend(query(dtype="fp8")).multiple_of == 16
    assert max(head_backend(query(capability=100)).sizes) == 1024
    assert max(head_backend(query(capability=100, heads=8)).sizes) == 64
    assert max(head_backend(query(capability=100, groups=0)).sizes) == 64
    assert head_backend(query(capability=100)).layouts == ("LBHNC", "BLHNC")
    assert head_backend(query(dtype="fp8_e5m2")).layouts == ()


LATENT: list[tuple[dict[str, Any], bool, str]] = [
    ({}, False, "FLASH_ATTN_MLA"),
    ({"dtype": "fp8"}, False, "FLASHMLA"),
    ({"capability": 80}, False, "TRITON_MLA"),
    ({"capability": 120, "dtype": "fp8"}, False, "TRITON_MLA"),
    ({"capability": 100}, False, "FLASHINFER_MLA"),
    ({"capability": 100, "block_tokens": 16}, False, "TRITON_MLA"),
    ({"block_tokens": 16, "dtype": "fp8"}, False, "TRITON_MLA"),
    ({}, True, "FLASH_ATTN_MLA_SPARSE"),
    ({"dtype": "fp8"}, True, "FLASHMLA_SPARSE"),
    ({"capability": 100, "dtype": "fp8"}, True, "FLASHINFER_MLA_SPARSE"),
    ({"capability": 100, "dtype": "fp8_ds_mla"}, True, "FLASHMLA_SPARSE"),
    ({"capability": 100, "heads": 16}, True, "FLASH_ATTN_MLA_SPARSE_FA4"),
    ({"capability": 100, "heads": 17}, True, "FLASHMLA_SPARSE"),
    ({"capability": 120}, True, ""),
    ({"dtype": "nvfp4"}, False, ""),
]


def test_backend_of_latents() -> None:
    """Dense and sparse; FlashMLA has pages of 64, CUTLASS of 128, Triton multiples of 16."""
    for more, sparse, name in LATENT:
        asked = query(**({"head_size": 576, "value_size": 0, "groups": 1} | more))
        if name:
            assert latent_backend(asked, sparse=sparse).name == name, more
            continue
        with pytest.raises(EngineRefusal, match="no valid attention backend"):
            latent_backend(asked, sparse=sparse)


def test_the_largest_kernel_block_in_a_page() -> None:
    """Of fixed sizes the largest that fits; of multiples the last; the smallest where none fits."""
    sizes, multiple = Backend(name="A", dtypes=(), sizes=(16, 32, 64)), Backend(name="B", dtypes=(), multiple_of=16)
    assert [largest_kernel_block(sizes, 10, page) for page in (639, 640, 320, 159, 10**6)] == [32, 64, 32, 16, 64]
    assert [largest_kernel_block(multiple, 10, page) for page in (639, 640, 159)] == [48, 64, 16]


def test_blocks_a_backend_takes() -> None:
    """Any multiple of one of its kernel blocks; 16 is preferred where it does; strides only where sizes are fixed."""
    sizes, multiple = Backend(name="A", dtypes=(), sizes=(64, 48)), Backend(name="B", dtypes=(), multiple_of=16)
    assert [sizes.takes_block(block) for block in (48, 64, 96, 100, 16)] == [True, True, True, False, False]
    assert (sizes.smallest, sizes.preferred_block(), sizes.stride_multiple) == (48, 48, 64)
    assert (multiple.smallest, multiple.preferred_block(), multiple.stride_multiple) == (16, 16, 0)
    assert Backend(name="C", dtypes=(), sizes=(64,), align_rows=1).stride_multiple == 0
    assert Backend(name="D", dtypes=(), sizes=(64,), multiple_of=16).stride_multiple == 0
