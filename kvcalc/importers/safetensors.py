"""How many parameters and bytes a checkpoint holds, from the headers of its safetensors files. Nothing else is read.

A file begins with the header's length (8 bytes, little-endian) and the header, a JSON object: tensor name -> dtype,
shape and data_offsets. Format: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import prod

from kvcalc.core.light import NamedTuple
from kvcalc.errors import ModelFileError, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
#: The largest real header (90,000 tensors in one file) has about 14 MB; the format itself stops at 100 MB.
MAX_HEADER_BYTES = 32 * 2**20
MAX_FILES = 4096
MAX_TENSORS = 2_000_000
_MAX_ELEMENTS = 2**63 - 1

#: dtype name of the format -> bits per element.
BITS: dict[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip
#: Types that hold several parameters per element in quantised checkpoints: their elements are not parameters.
_PACKED = {"I32", "U32", "I16", "U16", "U8", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"}
#: Positions, masks and counters: buffers, not parameters.
_BUFFERS = {"I64", "U64", "BOOL"}
#: Ends of the names that quantisers give to what scales a weight.
_SCALES = ("_scale", "_scale_inv", ".scale", "_scales", ".scales", "_zero_point", "_amax", ".absmax")


class Tensor(NamedTuple):
    """One tensor of a header: `bytes` as its offsets say, checked against dtype and shape."""

    name: str
    dtype: str
    elements: int
    bytes: int


class Checkpoint(NamedTuple):
    """Bytes of all tensors, and their parameters where every element is one (None for packed quantised weights)."""

    bytes: int
    parameters: int | None
    source: str


def checkpoint(tensors: Iterable[Tensor], source: str) -> Checkpoint:
    """Sum up a checkpoint's tensors.

    >>> checkpoint([Tensor("w", "BF16", 6, 12), Tensor("ids", "I64", 2, 16)], "test").parameters
    6
    """
    size, parameters, packed = 0, 0, False
    for tensor in tensors:
        size += tensor.bytes
        packed = packed or tensor.dtype in _PACKED
        if tensor.dtype not in _BUFFERS and not tensor.name.endswith(_SCALES):
            parameters += tensor.elements
    return Checkpoint(bytes=size, parameters=None if packed else parameters, source=source)


def read_folder(folder: Path) -> Checkpoint | None:
    """The checkpoint of a local folder: `model.safetensors`, or the files its index names; None without either.

    Where the index names files that are not there, its own totals count.

    Raises: ModelFileError for files that contradict themselves.
    """
    index = folder / INDEX
    if not index.is_file():
        single = folder / SINGLE
        if not single.is_file():
            return None
        return checkpoint(read_header(single), "header of model.safetensors")
    names, metadata = _read_index(index)
    if all((folder / name).is_file() for name in names):
        tensors = (tensor for name in names for tensor in read_header(folder / name))
        return checkpoint(tensors, f"headers of {len(names)} safetensors files")
    return _from_index(metadata)


def _from_index(metadata: dict[str, Any]) -> Checkpoint | None:
    size, parameters = metadata.get("total_size"), metadata.get("total_parameters")
    if type(size) is not int or not 0 < size <= _MAX_ELEMENTS:
        return None
    known = type(parameters) is int and 0 < parameters <= _MAX_ELEMENTS
    return Checkpoint(bytes=size, parameters=parameters if known else None, source=f"total_size of {INDEX}")


def _read_index(path: Path) -> tuple[list[str], dict[str, Any]]:
    """File names and metadata of an index; a name is a plain file name beside it, never a path."""
    index = _parse(_read(path, 0, MAX_HEADER_BYTES + 1), path)
    weights, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(weights, dict) or not weights:
        raise _broken(path, "it has no weight_map")
    names = sorted({name if isinstance(name, str) else "" for name in weights.values()})
    if len(names) > MAX_FILES:
        raise _broken(path, f"it names {len(names):,} files")
    for name in names:
        if not name.endswith(".safetensors") or "/" in name or "\\" in name or "\x00" in name:
            raise _broken(path, f"{short(name)} is no safetensors file beside it")
    return names, metadata if isinstance(metadata, dict) else {}


def read_header(path: Path) -> Iterator[Tensor]:
    """The tensors of one file.

    Raises: ModelFileError for a header that is no header, or tensors that do not fill the file exactly.
    """
    length = _header_bytes(path)
    header = _parse(_read(path, 8, length), path)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise _broken(path, f"its header lists {len(header):,} tensors")
    total = 0
    for name, entry in header.items():
        tensor = _tensor(name, entry, path)
        total += tensor.bytes
        yield tensor
    data = path.stat().st_size - 8 - length
    if total != data:
        kind = "incomplete" if total > data else "longer than its header says"
        raise _broken(path, f"it is {kind}: the header lists {total:,} bytes, the file holds {data:,}")


def _header_bytes(path: Path) -> int:
    start = _read(path, 0, 8)
    if start == b"version ":
        raise _broken(path, "it is a Git LFS pointer, not the file", fix="run git lfs pull in the checkpoint's folder")
    if len(start) < 8:
        raise _broken(path, "it is too short for a safetensors file")
    length = int.from_bytes(start, "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise _broken(path, f"its header would be {length:,} bytes long")
    return length


def _tensor(name: str, entry: object, path: Path) -> Tensor:
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _broken(path, f"tensor {short(name)} has the unknown dtype {short(dtype)}")
    if shape is None or offsets is None or len(offsets) != 2:
        raise _broken(path, f"tensor {short(name)} has no sound shape and data_offsets")
    elements, size = prod(shape), offsets[1] - offsets[0]
    if elements > _MAX_ELEMENTS or -(-elements * BITS[dtype] // 8) != size:
        raise _broken(path, f"tensor {short(name)}: {short(shape)} of {dtype} is not {size:,} bytes")
    return Tensor(name, dtype, elements, size)


def _counts(value: object) -> list[int] | None:
    """A short list of whole numbers from 0, None for anything else."""
    if not isinstance(value, list) or len(value) > 64:
        return None
    return value if all(type(item) is int and 0 <= item <= _MAX_ELEMENTS for item in value) else None


def _read(path: Path, start: int, length: int) -> bytes:
    try:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)
    except OSError as error:
        raise _broken(path, f"it cannot be read: {error.strerror or error}") from None


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    if len(raw) > MAX_HEADER_BYTES:
        raise _broken(path, f"it is above {MAX_HEADER_BYTES // 2**20} MiB")
    try:
        parsed = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _broken(path, "it is not valid JSON") from None
    if not isinstance(parsed, dict):
        raise _broken(path, "it is no JSON object")
    return parsed


def _broken(path: Path, why: str, *, fix: str = "download the file again") -> ModelFileError:
    return ModelFileError(f"cannot read the weights' sizes from {path.name}: {why}", fix=fix, file=str(path))
