"""One rank among several: measure, report to rank 0, which makes the one answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kvcalc.answers.common import Ask, Prepared, prepare
from kvcalc.core.gpu import Gpu
from kvcalc.errors import EXIT_CANNOT_MEASURE, CannotMeasure, KvcalcError, UsageError
from kvcalc.measure import distributed
from kvcalc.measure.answer import frame
from kvcalc.measure.distributed import Place, Stopped, Stopping
from kvcalc.measure.report import combine, measure_load
from kvcalc.measure.torch_backend import Device
from kvcalc.targets import Target


def measure_ranks(
    target: Target,
    ask: Ask,
    opened: Callable[[], Device],
    at: Place,
    stopping: Stopping,
    *,
    gpu: Gpu | None = None,
    timeout_s: int = distributed.DEFAULT_TIMEOUT_S,
) -> dict[str, Any] | None:
    """One rank's part of a distributed measurement. Rank 0 gets the answer, the others None.

    Raises: UsageError where the number of processes is not the layout's.
    """
    layout_ranks = (ask.tp or 1) * ask.pp * ask.dp
    if layout_ranks != at.world:
        raise UsageError(
            f"{at.world} processes were started for a layout of {layout_ranks} ranks",
            fix=f"torchrun --nproc-per-node {layout_ranks}, or --tp, --pp, --dp whose product is {at.world}",
            field="tp",
        )
    message = _own(target, ask, opened, at, stopping, gpu=gpu)
    try:
        store = distributed.open_store(timeout_s)
    except CannotMeasure:
        if at.rank != 0 or not stopping.asked:
            raise
        found = {at.rank: message}  # the launcher, and its store with it, is gone: report what there is
    else:
        if at.rank != 0:
            distributed.send(store, at, message, stopping, timeout_s=timeout_s)
            return None
        found = distributed.gather(store, at, message, stopping, timeout_s=timeout_s)
        with suppress(RuntimeError):
            distributed.close(store)
    silent = "ended, or was killed, before it reported" if stopping.asked else f"no report within {timeout_s} s"
    return _one_answer(prepare(target, ask, gpu=gpu), ask, found, at, silent=silent)


def _own(
    target: Target, ask: Ask, opened: Callable[[], Device], at: Place, stopping: Stopping, *, gpu: Gpu | None
) -> dict[str, Any]:
    """What this rank reports: its measurement, or why there is none."""
    try:
        ready = prepare(target, ask, gpu=gpu)
        device = opened()  # loads torch, which must not be interrupted half-way
        stopping.interruptible(True)
        return {"record": measure_load(ready.planner, ready.load, device, rank=at.rank)}
    except Stopped:
        return {"error": "stopped by the launcher before it had measured"}
    except KvcalcError as error:
        return {"error": str(error)}
    finally:
        stopping.interruptible(False)


def _one_answer(
    ready: Prepared, ask: Ask, found: dict[int, dict[str, Any]], at: Place, *, silent: str
) -> dict[str, Any]:
    """The ranks' reports side by side; ranks without one are named. silent: what is said of those."""
    records = [message["record"] for message in found.values() if "record" in message]
    ranks = [rank for record in records for rank in record["measured_ranks"]]
    missing = [rank for rank in range(at.world) if "record" not in found.get(rank, {})]
    device = records[0]["device"] if records else NO_DEVICE
    answer = {**frame(ready, ask, cache="plan"), **combine(ranks, device, missing)}
    answer["assumptions"].append(f"{at.world} processes, each measured its own rank's plan")
    for rank in missing:
        answer["warnings"].append(f"rank {rank}: {found.get(rank, {}).get('error', silent)}")
    return answer


#: In place of a device where no rank could measure.
NO_DEVICE: Any = {
    "device": "none",
    "name": "",
    "total_bytes": None,
    "driver": None,
    "runtime": None,
    "torch_version": "",
    "allocator": "",
    "context_bytes": None,
}


def exit_code(answer: dict[str, Any]) -> int:
    """0 equal, 1 not equal, 4 when a rank could not measure."""
    if answer["missing_ranks"]:
        return EXIT_CANNOT_MEASURE
    return 0 if answer["equal"] else 1
