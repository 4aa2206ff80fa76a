"""The rows of the listings, as types: `models`, `gpus`, `engines`, `dtypes`, `validate`."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from kvcalc.core.result import PriceInfo


class ModelRow(TypedDict):
    """A shipped model. source: repo, file, revision, date, as far as they are stated."""

    name: str
    aliases: list[str]
    architecture: str | None
    layers: int
    kinds: dict[str, int]
    parameters: int | None
    model_max_context: int | None
    dtype: str
    source: dict[str, str]


class GpuRow(TypedDict):
    """A GPU; absent: not known, or not so. total_is: driver or marketed (see `kvcalc.core.gpu.Gpu`)."""

    name: str
    product: str
    vendor: str
    architecture: str
    total_bytes: int
    total_is: str
    marketed_gb: int
    source: str
    date: str
    aliases: list[str]
    prices: list[PriceInfo]
    runtime_bytes: NotRequired[int]
    bandwidth_bytes_per_s: NotRequired[int]
    bandwidth_source: NotRequired[str]
    unified_memory: NotRequired[bool]
    nvlink: NotRequired[bool]
    notes: NotRequired[list[str]]
    recalled: NotRequired[list[str]]


class OptionRow(TypedDict):
    """An option of an engine, under the engine's own name. default None: the engine decides."""

    name: str
    takes: str
    default: int | float | bool | str | None
    choices: list[str]
    help: str


class EngineRow(TypedDict):
    """An engine; versions: the newest first."""

    name: str
    versions: list[str]
    verified_by: str
    summary: str
    options: list[OptionRow]


class DtypeRow(TypedDict):
    """An element type: `block_bytes` bytes hold `block_elements` elements."""

    name: str
    aliases: list[str]
    block_elements: int
    block_bytes: int
    bits_per_element: float
    family: str
    source: str


class FileRow(TypedDict):
    """A checked file: status ok or broken; error: as `--json` prints it."""

    file: str
    status: str
    message: str
    error: dict[str, Any] | None
