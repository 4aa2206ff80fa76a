"""The records of `sweep` and `plot`, beside those of `core.result`: the JSON contract, as types.

Only for type checkers and the generated JSON Schema, as there.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from kvcalc.core.result import EngineInfo, GpuInfo, LayoutInfo, LedgerLine, ModelInfo


class SweepRow(TypedDict):
    """One point of a sweep; `kvcalc.answers.sweep.COLUMNS` says what each column means.

    None: refused, unlimited, or not asked; the pool's columns are there where a GPU or a pool was given.
    """

    model: str
    engine: str
    engine_version: str
    engine_options: str | None
    gpu: NotRequired[str | None]
    tp: int | None
    pp: int
    dp: int
    dcp: int
    ep: bool
    context_tokens: int
    sessions: int
    encoder_tokens: int | None
    key_dtype: str
    value_dtype: str
    state_dtype: str
    index_dtype: str
    total_bytes: int | None
    rank_bytes: int | None
    per_session_bytes: int | None
    fixed_bytes_per_session: int | None
    marginal_bytes_per_token: int | None
    model_max_context: int | None
    weight_dtype: NotRequired[str | None]
    lora: NotRequired[str | None]
    overhead_bytes: NotRequired[int | None]
    gpu_total_bytes: NotRequired[int | None]
    pool_bytes: NotRequired[int | None]
    pool_low_bytes: NotRequired[int | None]
    pool_high_bytes: NotRequired[int | None]
    fits: NotRequired[bool | None]
    verdict: NotRequired[str | None]
    max_context_tokens: NotRequired[int | None]
    usable_context_tokens: NotRequired[int | None]
    max_sessions: NotRequired[int | None]
    binding_limit: NotRequired[str | None]
    exactness: str | None
    refused: bool
    reason: str | None


class CurvePoint(TypedDict):
    """One exact value of a curve. total_bytes: all ranks; rank_bytes: what the pool of the fullest one is charged."""

    context_tokens: int
    total_bytes: int
    rank_bytes: int


class SessionsPoint(TypedDict):
    """Sessions of so many tokens that the pool holds; None: unlimited. low, high: in the ledger's worst, best case."""

    context_tokens: int
    pool_bytes: int
    max_sessions: int | None
    low_sessions: int | None
    high_sessions: int | None


class Curve(TypedDict):
    """One line of `plot`: what it is of, and its values at rising contexts. `name` tells it from the others."""

    name: str
    model: ModelInfo
    engine: EngineInfo
    kv_dtype: dict[str, str]
    layout: LayoutInfo
    exactness: str
    gpu: GpuInfo | None
    points: list[CurvePoint | SessionsPoint]


class LedgerBar(TypedDict):
    """One bar of `plot --what ledger`: a GPU's memory and what the asked load needs of its pool."""

    name: str
    model: ModelInfo
    engine: EngineInfo
    kv_dtype: dict[str, str]
    layout: LayoutInfo
    exactness: str
    gpu: GpuInfo | None
    ledger: list[LedgerLine]
    pool_bytes: int
    pool_low_bytes: int
    pool_high_bytes: int
    needed_bytes: int
    verdict: str
