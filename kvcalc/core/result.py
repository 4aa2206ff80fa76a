"""The records that answers are made of: the JSON contract, as types. Bytes, tokens and sessions are integers.

Only for type checkers and the generated JSON Schema: answers import it under TYPE_CHECKING, because building the
types takes longer than building the answer.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class EngineInfo(TypedDict):
    name: str
    version: str
    verified_by: str


class ModelInfo(TypedDict):
    name: str
    architecture: str | None
    layers: int
    kinds: dict[str, int]
    dtype: str
    parameters: int | None
    model_max_context: int | None
    source: dict[str, str]
    origin: str


class RankBytes(TypedDict):
    rank: int
    bytes: int


class ComponentBytes(TypedDict):
    """One array of one block, over all its layers, sessions and ranks. `slots`: per session and layer."""

    name: str
    kind: str
    block: str
    layers: int
    law: str
    slots: int
    dtype: str
    bytes: int


class DeviceInfo(TypedDict):
    """Where a measurement ran. None: unknown, or the device has none.

    total_bytes: as the runtime counts it; context_bytes: the driver's growth when this process opened the device.
    """

    device: str
    name: str
    total_bytes: int | None
    driver: str | None
    runtime: str | None
    torch_version: str
    allocator: str
    context_bytes: int | None


class MeasuredTensor(TypedDict):
    """`count` equal tensors of the plan. stored_as: torch's element type (uint8: rows of packed bytes)."""

    name: str
    kind: str
    block: str
    count: int
    shape: list[int]
    dtype: str
    stored_as: str
    predicted_bytes: int
    requested_bytes: int
    allocated_bytes: int | None
    equal: bool


class MeasuredRank(TypedDict):
    """One plan allocated once; `ranks` are the global ranks it stands for.

    requested_bytes: asked of the allocator, which must equal the prediction; allocated_bytes: of its blocks;
    reserved_bytes: of its segments; expected_...: what the allocator's rounding rules give for these sizes.
    device_used_...: the whole device before and with the cache (on cpu: resident memory of the process).
    """

    ranks: list[int]
    predicted_bytes: int
    requested_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    expected_allocated_bytes: int | None
    expected_reserved_bytes: int | None
    device_used_before_bytes: int | None
    device_used_bytes: int | None
    equal: bool
    tensors: list[MeasuredTensor]


class FullRecord(TypedDict):
    """The largest load that really allocates under a limit. None: unlimited, the cache stops growing.

    max_...: by allocating; predicted_...: by the allocator's rules on the plan; formula_...: by the plan's bytes
    alone, what `fit --pool` answers. equal: both found are both predicted.
    """

    limit_bytes: int
    limit_is: str
    max_context_tokens: int | None
    predicted_max_context_tokens: int | None
    formula_max_context_tokens: int | None
    max_sessions: int | None
    predicted_max_sessions: int | None
    formula_max_sessions: int | None
    tries: int
    equal: bool


class MeasureRecord(TypedDict):
    """What was predicted and what a device says. Sums are over `measured_ranks`.

    missing_ranks: of a distributed run, those that did not report.
    """

    predicted_bytes: int
    requested_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None
    device_used_bytes: int | None
    equal: bool
    measured_at: str
    device: DeviceInfo
    measured_ranks: list[MeasuredRank]
    missing_ranks: list[int]
    until_full: NotRequired[FullRecord]


class CacheRecord(TypedDict):
    """What one model's cache takes at one load.

    total_bytes: all ranks together; ranks: each of them.
    per_session_bytes, fixed_bytes_per_session, marginal_bytes_per_token: of one undivided copy of the model,
    so that replication over ranks does not hide a model's own cost.
    """

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    total_bytes: int
    per_session_bytes: int
    fixed_bytes_per_session: int
    marginal_bytes_per_token: int
    ranks: list[RankBytes]
    components: list[ComponentBytes]
    engine_report: dict[str, object]
    measured: NotRequired[MeasureRecord]


class LedgerLine(TypedDict):
    """One line of a GPU's memory: positive what is there, negative what it takes; the lines sum to the pool.

    low_bytes, high_bytes: in the worst and in the best case for the cache; each column sums to its own pool.
    source: driver, header, formula, band, log or user; detail: the rule or the place.
    """

    item: str
    bytes: int
    low_bytes: int
    high_bytes: int
    source: str
    detail: str
    exactness: str


class GpuInfo(TypedDict):
    name: str
    count: int
    total_bytes: int
    total_is: str


class LayoutInfo(TypedDict):
    """Degrees; ep: over how many ranks experts are divided beyond TP (1: not)."""

    tp: int
    pp: int
    dp: int
    dcp: int
    ep: int


class FitRecord(CacheRecord):
    """A cache record on a GPU. None for context or sessions: unlimited, the cache does not grow with them.

    pool_low_bytes, pool_high_bytes: the pool in the ledger's worst and best case; low_context_tokens, low_sessions:
    what the worst case still holds. verdict: FITS (the worst case holds the load), BORDERLINE, DOES NOT FIT.
    """

    gpu: GpuInfo | None
    layout: LayoutInfo
    ledger: list[LedgerLine]
    pool_bytes: int
    pool_low_bytes: int
    pool_high_bytes: int
    fits: bool
    verdict: str
    max_context_tokens: int | None
    low_context_tokens: int | None
    model_max_context: int | None
    usable_context_tokens: int | None
    max_sessions: int | None
    low_sessions: int | None
    binding_limit: str
    mha_ratio: float | None


class Requirement(TypedDict):
    """Something the answer was asked to hold. missing_bytes: per GPU, 0 where it is met or no memory is missing."""

    what: str
    required: int
    held: int | None
    met: bool
    missing_bytes: int


class Advice(TypedDict):
    """A change and the bytes per GPU it would leave for the cache, or that the load would need less."""

    change: str
    gain_bytes: int


class SessionLimits(TypedDict):
    """Sessions that each limit allows; None: it does not bind, or is not known."""

    wait: int | None
    preempt: int | None
    max_num_seqs: int | None
    prefill: int | None
    longest_request: int | None


class SessionLoad(TypedDict):
    """The pool with `at_sessions` sessions running, on the fullest GPU.

    wait_rate: share of requests that wait; preempt_rate: preemptions per finished request. *_blocks: None where the
    engine does not count blocks; shared_bytes: of the shared prompt, held once.
    """

    at_sessions: int
    wait_rate: float
    preempt_rate: float
    unit_bytes: int
    pool_blocks: int | None
    mean_used_blocks: int | None
    p99_used_blocks: int | None
    mean_used_bytes: int
    p99_used_bytes: int
    mean_session_bytes: int
    shared_bytes: int


class WorkloadInfo(TypedDict):
    mean_prompt_tokens: float
    mean_output_tokens: float
    longest_tokens: int
    shared_prompt_tokens: int
    arrivals: str


class SessionsRecord(SessionLoad):
    """Sessions of real lengths over all replicas; blocks and bytes of one GPU.

    worst_case_sessions: every session as long as the longest; full_context_sessions: as the model allows.
    """

    pool_bytes: int
    pool_low_bytes: int
    pool_high_bytes: int
    workload: WorkloadInfo
    max_sessions: int | None
    low_sessions: int | None
    binding_limit: str
    limits: SessionLimits
    longest_session_tokens: int
    worst_case_sessions: int | None
    full_context_sessions: int | None


class PriceInfo(TypedDict):
    """USD per GPU and hour, as text; where and when it was read."""

    usd_per_hour: str
    kind: str
    source: str
    date: str


class PlanRow(TypedDict):
    """One set of GPUs that holds the load. layout: of one replica (dp > 1: replicas that share their experts).

    *_micro_usd_*: [low, high] in 1e-6 USD, None without a price; per session: of the asked users; per million tokens:
    of the users' mean live tokens. low_sessions: in the ledger's worst case.
    """

    gpu: str
    gpu_bytes: int
    gpus: int
    layout: LayoutInfo
    replicas: int
    kv_dtype: str
    sessions_per_replica: int
    sessions: int
    low_sessions: int
    headroom_sessions: int
    weights_bytes: int
    pool_bytes: int
    price: PriceInfo | None
    cost_micro_usd_per_hour: list[int] | None
    session_micro_usd_per_hour: list[int] | None
    million_tokens_micro_usd_per_hour: list[int] | None
    flags: str


class EngineFitRecord(FitRecord):
    """A fit record of `--engines`: `differs` is what sets the engine apart, in one phrase."""

    differs: str


class TierRow(TypedDict):
    """One tier below the GPUs; sessions None: more than anyone asks for."""

    tier: str
    capacity_bytes: int
    sessions: int | None
    holds_asked: bool
    reload_ns: int | None


class VariantRecord(TypedDict):
    """The same model with another attention."""

    variant: str
    marginal_bytes_per_token: int
    per_session_bytes: int
    mha_ratio: float
    max_context_tokens: int | None
    max_sessions: int | None


class Term(TypedDict):
    """One product of the formula, with this model's integers. sessions: 1 where all of them share one pool."""

    component: str
    block: str
    kind: str
    layers: int
    sessions: int
    slots: int
    slots_rule: str
    elements_per_slot: int
    bytes_per_slot: int
    dtype: str
    bytes: int
    formula: str
    source: str
