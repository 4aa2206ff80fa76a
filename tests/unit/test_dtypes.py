"""Element types take the bytes of their published layouts, scales included."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.dtypes import DTYPES, get_dtype
from kvcalc.errors import UsageError

#: name -> (elements, struct of one block). ggml: ggml-common.h block_*: d and m are binary16, qh 32 bits, qs packed.
#: nvfp4: 16 e2m1 and one e4m3 scale (NVIDIA); mxfp4, mxfp8: 32 elements and one e8m0 scale (OCP MX 1.0 section 5).
LAYOUTS: dict[str, tuple[int, str]] = {
    "float32": (1, "<f"),
    "float16": (1, "<e"),
    "bfloat16": (1, "<H"),
    "fp8_e4m3": (1, "<B"),
    "fp8_e5m2": (1, "<B"),
    "int8": (1, "<b"),
    "int4": (2, "<B"),
    "int64": (1, "<q"),
    "nvfp4": (16, "<8sB"),
    "mxfp4": (32, "<16sB"),
    "mxfp8": (32, "<32sB"),
    "q8_0": (32, "<e32s"),
    "q5_1": (32, "<eeI16s"),
    "q5_0": (32, "<eI16s"),
    "q4_1": (32, "<ee16s"),
    "q4_0": (32, "<e16s"),
    "iq4_nl": (32, "<e16s"),
}


def test_every_type_has_a_layout_here() -> None:
    """No type is without a published layout."""
    assert set(LAYOUTS) == set(DTYPES)


@pytest.mark.parametrize("name", DTYPES)
def test_block_bytes(name: str) -> None:
    """Elements and bytes of a block are those of the layout."""
    elements, layout = LAYOUTS[name]
    dtype = DTYPES[name]
    assert (dtype.block_elements, dtype.block_bytes) == (elements, struct.calcsize(layout))
    assert dtype.bits_per_element == struct.calcsize(layout) * 8 / elements


@pytest.mark.parametrize(
    ("name", "elements", "size"),
    [("q8_0", 128, 136), ("q4_0", 128, 72), ("q4_0", 1, 18), ("q4_0", 33, 36), ("nvfp4", 128, 72), ("nvfp4", 17, 18),
     ("mxfp4", 576, 306), ("int4", 3, 2), ("bfloat16", 3, 6), ("fp8", 656, 656), ("float32", 0, 0), ("q8_0", 0, 0)],
)  # fmt: skip
def test_rows(name: str, elements: int, size: int) -> None:
    """A row that ends inside a block takes the whole block."""
    assert get_dtype(name).row_bytes(elements) == size


@given(st.sampled_from(list(DTYPES)), st.integers(0, 10**6))
def test_rows_are_monotone_integers(name: str, elements: int) -> None:
    """More elements never take less; bytes are whole."""
    dtype = DTYPES[name]
    assert type(dtype.row_bytes(elements)) is int
    assert dtype.row_bytes(elements) <= dtype.row_bytes(elements + 1)
    assert dtype.row_bytes(elements * dtype.block_elements) == elements * dtype.block_bytes


@pytest.mark.parametrize(
    ("alias", "name"),
    [("bf16", "bfloat16"), ("BF16", "bfloat16"), ("torch.bfloat16", "bfloat16"), ("half", "float16"),
     ("fp8", "fp8_e4m3"), (" fp16 ", "float16"), ("float8_e4m3fn", "fp8_e4m3"), ("Q8_0", "q8_0"),
     ("f32", "float32"), ("e5m2", "fp8_e5m2")],
)  # fmt: skip
def test_aliases(alias: str, name: str) -> None:
    """Types are found as configs, torch, engines and people write them."""
    assert get_dtype(alias).name == name


def test_aliases_are_unique() -> None:
    """No word means two types."""
    words = [word for dtype in DTYPES.values() for word in (dtype.name, *dtype.aliases)]
    assert len(words) == len(set(words))
    assert all(dtype.source for dtype in DTYPES.values())
    assert [dtype.name for dtype in DTYPES.values()] == list(DTYPES)


@pytest.mark.parametrize("name", ["fp7", "", "none", "bfloat", "q4_k", "auto", "x" * 1000])
def test_unknown_types(name: str) -> None:
    """An unknown type is refused, never taken for a near one."""
    with pytest.raises(UsageError, match="unknown dtype") as caught:
        get_dtype(name, field="kv-dtype")
    assert caught.value.field == "kv-dtype"
    assert caught.value.fix
    assert len(str(caught.value)) < 100
