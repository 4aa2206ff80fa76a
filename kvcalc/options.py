"""The keyword arguments of the Python API, as types: the command line's long flags with underscores.

Sizes, tokens and rates are integers, or text as on the command line (`"128k"`, `"24GiB"`, `"400Gb/s"`). Only for type
checkers: nothing imports it when it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

#: 131072 or "128k".
Tokens = int | str
#: 25769803776 or "24GiB".
Size = int | str
#: 0.01.
Share = float | str
Path = str | os.PathLike[str]
#: "p50=900,p95=3000", {"p50": 900, "p95": 3000} or 512.
Shape = str | int | Mapping[str, int | float]
#: ["block_size=32"] or {"block_size": 32}.
EngineOptions = Iterable[str] | Mapping[str, str | int | float]
#: A workload file, its content, or pairs of (prompt tokens, output tokens).
Requests = Path | Mapping[str, object] | Iterable[tuple[int, int]]


class Allocation(TypedDict, total=False):
    """Who allocates, in which types, on which layout. kv_dtype: "fp8", or {"k": "q8_0", "v": "q4_0"}."""

    kv_dtype: str | Mapping[str, str]
    state_dtype: str
    index_dtype: str
    engine: str
    options: EngineOptions
    tp: int
    pp: int
    dp: int
    dcp: int
    draft: str
    encoder_tokens: int
    gpu: str


class Context(Allocation, total=False):
    """Allocation, and context tokens per session (default 8k)."""

    context: Tokens


class Cached(Context, total=False):
    """Allocation, and the load: context tokens per session, sessions (default 1)."""

    sessions: int


class Measured(TypedDict, total=False):
    """measure: allocate it for real; device: "cuda", "cuda:1" or "cpu"."""

    measure: bool
    device: str


class Ledger(TypedDict, total=False):
    """What takes the GPU's memory beside the cache."""

    ep: bool
    weight_dtype: str
    lora: str
    overhead: Size
    gpu_total: Size


class Pool(Ledger, total=False):
    """The memory that is left for the cache: from the ledger, or known."""

    pool: Size


class Logged(TypedDict, total=False):
    """An engine's start-up log, whose numbers replace estimates."""

    from_log: Path


class Lengths(TypedDict, total=False):
    """How long requests are, and what is accepted."""

    workload: Requests
    input: Shape
    output: Shape
    shared_prompt: Tokens
    image_tokens: Tokens
    arrivals: str
    wait: Share
    preempt: Share


class SizeOptions(Cached, Measured, total=False):
    """Of `size`."""


class ExplainOptions(Cached, total=False):
    """Of `explain`."""


class VariantsOptions(Cached, Pool, total=False):
    """Of `variants`: the free choices of the alternatives."""

    latent_dim: int
    rope_dim: int
    window: int
    hybrid_window: int
    hybrid_local: int


class FitOptions(Cached, Pool, Lengths, Logged, Measured, total=False):
    """Of `fit`. require_...: what `requirements` of the answer judges; lengths: sessions of these requests as well."""

    require_sessions: int
    require_context: Tokens


class CompareOptions(Cached, Pool, Measured, total=False):
    """Of `compare`. engines, layouts: a list, or "all"."""

    engines: str | Sequence[str]
    layouts: str | Sequence[str]
    gpus: int


class SessionsOptions(Cached, Lengths, Pool, Logged, total=False):
    """Of `sessions`."""


class AdviseOptions(Cached, Ledger, total=False):
    """Of `advise`."""

    rows: int


class PlanOptions(Lengths, Ledger, total=False):
    """Of `plan`, which chooses tp, pp and dp itself; gpu and kv_dtype take lists."""

    users: int
    max_context: Tokens
    price: str | float | Mapping[str, float]
    max_gpus: int
    rows: int
    context: Tokens
    sessions: int
    kv_dtype: str | Sequence[str]
    state_dtype: str
    index_dtype: str
    engine: str
    options: EngineOptions
    draft: str
    encoder_tokens: int
    gpu: str | Sequence[str]


class OffloadOptions(Cached, total=False):
    """Of `offload`. chunk: tokens per stored chunk, 0 for none."""

    host: Size
    disk: Size
    link: str
    disk_link: str
    tier_dtype: str
    chunk: int


class TransferOptions(Context, total=False):
    """Of `transfer`. rate: requests per second."""

    rate: float | str
    link: str


class MeasureOptions(Cached, total=False):
    """Of `measure`. cache: "plan" or "transformers"; save: keep the answer as JSON."""

    device: str
    until_full: bool
    limit: Size
    cache: str
    save: Path
    timeout: int
