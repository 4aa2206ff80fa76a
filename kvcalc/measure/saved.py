"""Measurements kept in files, and today's prediction against the bytes of then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import prepare
from kvcalc.core.plan import RankPlan, Tensor
from kvcalc.errors import UsageError
from kvcalc.files import write_whole
from kvcalc.measure.allocator import simulate
from kvcalc.measure.answer import asked_again, frame
from kvcalc.measure.full import compare
from kvcalc.measure.report import combine
from kvcalc.registry import Registry
from kvcalc.targets import load_target

if TYPE_CHECKING:
    from kvcalc.core.result import MeasuredRank, MeasuredTensor

_MAX_FILE_BYTES = 64 * 2**20


def save(answer: dict[str, Any], path: str) -> None:
    """Write the answer as JSON; the file appears whole or not at all.

    Raises: UsageError where it cannot be written.
    """
    text = json.dumps(answer, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(path, text.encode())


def load(path: str) -> dict[str, Any]:
    """A saved answer.

    Raises: UsageError where the file is none.
    """
    from kvcalc.answers.schemas import read_answer

    try:
        if Path(path).stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"{path} is too large for a saved measurement", fix="name a file of --save")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise UsageError(f"{path} cannot be read: {why}", fix="name a file of --save") from None
    found: dict[str, Any] = read_answer("measure", text, file=path)
    ranks = [rank["ranks"] for rank in found["measured_ranks"]]
    if _below_zero(found) or not ranks or not all(ranks) or not isinstance(found["inputs"].get("target"), str):
        raise UsageError(
            f"{path} is no saved measurement: a byte count is below 0, or its target or a rank is missing",
            fix="name a file that `kvcalc measure --save FILE` wrote",
            file=path,
        )
    return found


def _below_zero(value: object, name: str = "") -> bool:
    """Whether any byte count in it is negative."""
    if isinstance(value, dict):
        return any(_below_zero(item, key) for key, item in value.items())
    if isinstance(value, list):
        return any(_below_zero(item, name) for item in value)
    return name.endswith("bytes") and isinstance(value, int) and value < 0


def check(path: str, registry: Registry) -> dict[str, Any]:
    """The saved answer with today's predictions in place of those of then.

    Raises: UsageError, ModelFileError, EngineRefusal.
    """
    saved = load(path)
    inputs = saved["inputs"]
    target = load_target(str(inputs["target"]).removeprefix("registry:"), registry)
    ask = asked_again(inputs)
    ready = prepare(target, ask, gpu=None if ask.gpu is None else registry.gpu(ask.gpu))
    plan = ready.planner.plan(ready.load)
    by_rank = {rank: group for group in plan.ranks for rank in group.ranks}
    ranks = [_check_rank(rank, by_rank.get(rank["ranks"][0])) for rank in saved["measured_ranks"]]
    measured = combine(ranks, saved["device"], saved["missing_ranks"])
    measured["measured_at"] = saved["measured_at"]
    answer = {**frame(ready, ask, cache=saved["cache"]), **measured}
    answer["assumptions"].append(f"measured by kvcalc {saved['kvcalc_version']} on {saved['measured_at']}")
    if "until_full" in saved:
        then = saved["until_full"]
        # The rules of the allocator that was there then, which no device is needed for.
        cuda = saved["device"]["device"].startswith("cuda")
        again = compare(
            ready.planner,
            ready.load,
            (lambda sizes: simulate(sizes).reserved_bytes) if cuda else sum,
            {"limit_bytes": then["limit_bytes"], "limit_is": then["limit_is"], "tries": then["tries"]},
            found=(then["max_context_tokens"], then["max_sessions"]),
        )
        answer["until_full"] = again
        answer["equal"] = answer["equal"] and again["equal"]
    return answer


def _check_rank(saved: MeasuredRank, plan: RankPlan | None) -> MeasuredRank:
    """One rank's bytes of then beside what its plan says today; tensors are matched by block, name and order."""
    today = list(plan.tensors) if plan is not None else []
    rows: list[MeasuredTensor] = []
    for row in saved["tensors"]:
        found = next((tensor for tensor in today if _same(row, tensor)), None)
        if found is not None:
            today.remove(found)
        predicted = 0 if found is None else found.bytes
        rows.append({**row, "predicted_bytes": predicted, "equal": predicted == row["requested_bytes"]})
    rows += [_unmeasured(tensor) for tensor in today]
    predicted = 0 if plan is None else plan.bytes
    equal = predicted == saved["requested_bytes"] and all(row["equal"] for row in rows)
    return {**saved, "predicted_bytes": predicted, "tensors": rows, "equal": equal}


def _same(row: MeasuredTensor, tensor: Tensor) -> bool:
    return (row["block"], row["name"]) == (tensor.block, tensor.name)


def _unmeasured(tensor: Tensor) -> MeasuredTensor:
    """A tensor of today's plan that was not there when the file was made."""
    return {
        "name": tensor.name,
        "kind": tensor.kind,
        "block": tensor.block,
        "count": tensor.count,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "stored_as": "",
        "predicted_bytes": tensor.bytes,
        "requested_bytes": 0,
        "allocated_bytes": None,
        "equal": tensor.bytes == 0,
    }
