"""The measurement itself: every tensor of a plan allocated, counted, freed; what was predicted beside what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kvcalc.core.capacity import last_that_fits
from kvcalc.core.plan import CachePlan, Load, Planner, RankPlan, Tensor
from kvcalc.errors import CannotMeasure
from kvcalc.measure.torch_backend import Device, Held, OutOfRoom, stored_as
from kvcalc.units import MAX_TOKENS, gib

if TYPE_CHECKING:
    from kvcalc.core.result import DeviceInfo, MeasuredRank, MeasuredTensor, MeasureRecord


#: Memory that tensors of these sizes take.
Need = Callable[[Iterable[int]], int]


def measure_load(planner: Planner, load: Load, device: Device, *, rank: int | None = None) -> MeasureRecord:
    """Allocate the plan of `load` and compare.

    Ranks with equal tensors are measured once, one class after the other, on the same device. rank: measure the plan
    of this global rank alone (each process of a distributed run its own).

    Raises: CannotMeasure when the device has not enough memory, or an allocation fails.
    """
    plans = rank_plans(planner.plan(load), rank)
    for plan in plans:
        _check_room(plan, planner, load, device)
    return combine([measure_rank(plan, device) for plan in plans], device.info())


def rank_plans(plan: CachePlan, rank: int | None) -> list[RankPlan]:
    """One plan per class of equal ranks, or the plan of one rank, named as that rank alone."""
    if rank is None:
        return list(plan.ranks)
    return [found._replace(ranks=(rank,)) for found in plan.ranks if rank in found.ranks]


def sizes_of(tensors: Sequence[Tensor]) -> Iterator[int]:
    """Bytes of every single tensor, in the order they are allocated."""
    for tensor in tensors:
        size = stored_as(tensor).bytes
        for _ in range(tensor.count):
            yield size


def _check_room(plan: RankPlan, planner: Planner, load: Load, device: Device) -> None:
    """Raises: CannotMeasure saying how much is missing and how long a context would fit."""
    free, need = device.free_bytes(), device.need_bytes(sizes_of(plan.tensors))
    if free is None or need <= free:
        return
    most = last_that_fits(
        lambda tokens: need_of(planner, load._replace(context_tokens=tokens), device.need_bytes), free, MAX_TOKENS
    )
    sessions = f" with {load.sessions:,} sessions" if load.sessions > 1 else ""
    raise CannotMeasure(
        f"{device.name} has {gib(free)} free, the prediction takes {gib(need)}: {gib(need - free)} are missing",
        fix=f"-c {most} is the longest context that fits{sessions}" if most else "not even one token fits: lower -n",
        field="context",
    )


def need_of(planner: Planner, load: Load, need_bytes: Need) -> int:
    """Memory of the fullest rank for a load, the allocator's rounding included."""
    return max(need_bytes(sizes_of(rank.tensors)) for rank in planner.plan(load).ranks)


def measure_rank(plan: RankPlan, device: Device) -> MeasuredRank:
    """Allocate one rank's tensors, count, free.

    Raises: CannotMeasure when an allocation fails; everything is freed before it is raised.
    """
    before = device.used_bytes()
    try:
        with device.hold() as held:
            rows = [_measure_tensor(tensor, held) for tensor in plan.tensors]
            totals, used = held.totals(), device.used_bytes()
    except OutOfRoom as error:
        raise CannotMeasure(
            f"an allocation failed on {device.name}: {error}",
            fix="free memory there, or measure a shorter context; nothing was left allocated",
        ) from None
    allocated, reserved = device.expected(sizes_of(plan.tensors)) or (None, None)
    return {
        "ranks": list(plan.ranks),
        "predicted_bytes": plan.bytes,
        "requested_bytes": totals.requested_bytes,
        "allocated_bytes": totals.allocated_bytes,
        "reserved_bytes": totals.reserved_bytes,
        "expected_allocated_bytes": allocated,
        "expected_reserved_bytes": reserved,
        "device_used_before_bytes": before,
        "device_used_bytes": used,
        "equal": totals.requested_bytes == plan.bytes and all(row["equal"] for row in rows),
        "tensors": rows,
    }


def _measure_tensor(tensor: Tensor, held: Held) -> MeasuredTensor:
    """Allocate the `count` equal tensors of one row of the plan."""
    stored = stored_as(tensor)
    taken = [held.add(stored) for _ in range(tensor.count)]
    requested = sum(one.requested_bytes for one in taken)
    granted = [one.allocated_bytes for one in taken if one.allocated_bytes is not None]
    return {
        "name": tensor.name,
        "kind": tensor.kind,
        "block": tensor.block,
        "count": tensor.count,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "stored_as": stored.dtype,
        "predicted_bytes": tensor.bytes,
        "requested_bytes": requested,
        "allocated_bytes": sum(granted) if len(granted) == len(taken) else None,
        "equal": requested == tensor.bytes,
    }


def combine(ranks: list[MeasuredRank], device: DeviceInfo, missing: Sequence[int] = ()) -> MeasureRecord:
    """The measured ranks as one record; sums are over what was allocated, each class of equal ranks once."""
    return {
        "predicted_bytes": sum(rank["predicted_bytes"] for rank in ranks),
        "requested_bytes": sum(rank["requested_bytes"] for rank in ranks),
        "allocated_bytes": _sum([rank["allocated_bytes"] for rank in ranks]),
        "reserved_bytes": _sum([rank["reserved_bytes"] for rank in ranks]),
        "device_used_bytes": max((rank["device_used_bytes"] or 0 for rank in ranks), default=0) or None,
        "equal": bool(ranks) and not missing and all(rank["equal"] for rank in ranks),
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": device,
        "measured_ranks": ranks,
        "missing_ranks": list(missing),
    }


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
