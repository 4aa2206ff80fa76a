"""The records of `advise` and `doctor`, beside those of `core.result`: the JSON contract, as types.

Only for type checkers and the generated JSON Schema, as there.
"""

from __future__ import annotations

from typing import TypedDict

from kvcalc.core.result import LayoutInfo


class HeldRecord(TypedDict):
    """What one setting holds: the short form of a fit record, bytes of the fullest GPU.

    spare_bytes: pool minus needed, negative where that much is short; gpu_bytes: what the ledger starts from.
    None for context or sessions: unlimited.
    """

    gpu: str
    gpus: int
    layout: LayoutInfo
    kv_dtype: str
    context_tokens: int
    sessions: int
    gpu_bytes: int
    weights_bytes: int
    pool_bytes: int
    needed_bytes: int
    spare_bytes: int
    fits: bool
    verdict: str
    max_context_tokens: int | None
    model_max_context: int | None
    max_sessions: int | None
    low_sessions: int | None
    binding_limit: str
    exactness: str


class LeverRecord(TypedDict):
    """One change and what it would hold. refused: the reason, where the engine does not take it.

    gain_sessions: more than the present setting holds at the asked context (a context lever: at its own); None where
    that is not a number (refused, unlimited).
    host_bytes: of the offload lever only.
    """

    lever: str
    change: str
    note: str
    refused: str | None
    held: HeldRecord | None
    gain_sessions: int | None
    host_bytes: int | None


class AdvisedModel(TypedDict):
    """A shipped model on the asked GPUs. why: holds, memory, weights, own limit, or the refusal's sentence."""

    model: str
    kinds: dict[str, int]
    parameters: int | None
    model_max_context: int | None
    marginal_bytes_per_token: int | None
    holds: bool
    why: str
    held: HeldRecord | None


class Decision(TypedDict):
    """One sentence made from the numbers."""

    topic: str
    text: str


class Finding(TypedDict):
    """One thing that `doctor` looked at. status: ok, absent (optional), note or problem; fix: what to do about it."""

    area: str
    item: str
    value: str
    status: str
    fix: str | None


class SeenDevice(TypedDict):
    """A device that torch can allocate on; total_bytes as the runtime counts them."""

    device: str
    name: str
    total_bytes: int
    driver: str | None
