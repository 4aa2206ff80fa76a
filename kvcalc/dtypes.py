"""Element types a cache can be stored in, with their true bytes.

A type is a block: `block_bytes` for `block_elements` neighbouring elements of one row, so that the scales
of block formats are counted (q8_0 is 34 bytes per 32 elements, nvfp4 9 bytes per 16). The one rounding of
this module is `row_bytes`: a row that ends inside a block still takes the whole block.

This is not a list of what an engine accepts: each engine names its own.
"""

from __future__ import annotations

from kvcalc.core.light import NamedTuple
from kvcalc.errors import UsageError, did_you_mean, short

_GGML = "ggml-common.h block_%s, llama.cpp 0c1e57098"


class Dtype(NamedTuple):
    """One element type: `block_bytes` bytes hold `block_elements` elements (scales included)."""

    name: str
    block_elements: int
    block_bytes: int
    aliases: tuple[str, ...]
    family: str
    source: str

    def row_bytes(self, elements: int) -> int:
        """Bytes of one contiguous row; a partly filled last block is stored whole.

        >>> DTYPES["q8_0"].row_bytes(128), DTYPES["bfloat16"].row_bytes(128)
        (136, 256)
        """
        if self.block_elements == 1:
            return elements * self.block_bytes
        return -(-elements // self.block_elements) * self.block_bytes

    @property
    def bits_per_element(self) -> float:
        """For display only."""
        return self.block_bytes * 8 / self.block_elements


def _build() -> dict[str, Dtype]:
    ieee, ocp = "IEEE 754-2019", "OCP 8-bit floating point specification 1.0"
    rows = (
        ("float32", 1, 4, ("fp32", "f32", "float"), "float", ieee),
        ("bfloat16", 1, 2, ("bf16",), "float", "truncated binary32, 8-bit exponent"),
        ("float16", 1, 2, ("fp16", "f16", "half"), "float", ieee),
        ("fp8_e4m3", 1, 1, ("fp8", "f8", "float8_e4m3fn", "float8_e4m3", "fp8_e4m3fn", "e4m3"), "float", ocp),
        ("fp8_e5m2", 1, 1, ("float8_e5m2", "e5m2"), "float", ocp),
        ("int8", 1, 1, ("i8",), "integer", "one byte per element; scales kept outside the cache are not counted"),
        ("int4", 2, 1, ("i4",), "integer", "two elements per byte; scales kept outside the cache are not counted"),
        ("int64", 1, 8, ("i64",), "integer", "token ids and positions, never keys or values"),
        ("nvfp4", 16, 9, (), "microscaling", "16 e2m1 elements + one e4m3 scale: NVIDIA NVFP4"),
        ("mxfp4", 32, 17, (), "microscaling", "32 e2m1 elements + one e8m0 scale: OCP microscaling specification 1.0"),
        ("mxfp8", 32, 33, (), "microscaling", "32 e4m3 elements + one e8m0 scale: OCP microscaling specification 1.0"),
        ("q8_0", 32, 34, (), "ggml", _GGML % "q8_0"),
        ("q5_1", 32, 24, (), "ggml", _GGML % "q5_1"),
        ("q5_0", 32, 22, (), "ggml", _GGML % "q5_0"),
        ("q4_1", 32, 20, (), "ggml", _GGML % "q4_1"),
        ("q4_0", 32, 18, (), "ggml", _GGML % "q4_0"),
        ("iq4_nl", 32, 18, (), "ggml", _GGML % "iq4_nl"),
    )
    return {row[0]: Dtype(*row) for row in rows}


DTYPES: dict[str, Dtype] = _build()
_BY_NAME: dict[str, Dtype] = DTYPES | {alias: dtype for dtype in DTYPES.values() for alias in dtype.aliases}


def get_dtype(name: str, *, field: str = "dtype") -> Dtype:
    """The element type called `name` (canonical or alias, case forgiven).

    Raises: UsageError naming the near ones.

    >>> get_dtype("BF16").name
    'bfloat16'
    """
    found = _BY_NAME.get(name) or _BY_NAME.get(name.strip().lower().removeprefix("torch."))
    if found is None:
        raise UsageError(
            f"unknown dtype {short(name)}",
            fix=did_you_mean(name, list(_BY_NAME)) or f"one of: {', '.join(DTYPES)}",
            field=field,
            value=name,
        )
    return found
