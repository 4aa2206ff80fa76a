from __future__ import annotations

import sys

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK, UsageError

#: What is looked at when no GPU is named, and said so.
DEFAULT_GPUS = "h100-80gb,h200,b200"


def run(given: Given) -> int:
    from kvcalc.answers.plan import Wanted, plan
    from kvcalc.cli.workloads import maybe_workload, read_targets
    from kvcalc.planning.cost import read_prices
    from kvcalc.planning.search import MAX_UNIT
    from kvcalc.units import MAX_SESSIONS

    users = given.whole("users", most=MAX_SESSIONS)
    if users is None:
        raise UsageError("no number of users is given", fix="add --users 200", field="users")
    registry, values = given.registry(), given.values
    for name in ("tp", "pp", "dp", "dcp", "pool", "from_log"):
        if values.get(name) is not None:
            raise UsageError(
                f"--{name} contradicts a search over layouts", fix=f"drop --{name}, or ask fit", field=name
            )
    text = values.get("gpu") or DEFAULT_GPUS
    gpus = [registry.gpu(name.strip()) for name in text.split(",")]
    dtypes = values.get("kv_dtype")
    ask = Given({**values, "gpu": None, "kv_dtype": None}).ask()
    wanted = Wanted(
        users=users,
        workload=maybe_workload(given),
        targets=read_targets(given),
        max_context=given.tokens("max_context"),
        kv_dtypes=(None,) if dtypes is None else tuple(name.strip() for name in dtypes.split(",")),
        prices={} if values.get("price") is None else read_prices(values["price"]),
        most_gpus=given.whole("max_gpus", most=4096) or MAX_UNIT,
        rows=given.whole("rows", most=1000) or 10,
    )
    answer = plan(given.target(registry), ask, gpus, wanted, _progress if given.watched() else None)
    if values.get("gpu") is None:
        answer["assumptions"] = [f"GPUs {DEFAULT_GPUS}: none were asked for (--gpu)", *answer["assumptions"]]
    given.emit(answer)
    return EXIT_OK if answer["results"] else EXIT_DOES_NOT_FIT


def _progress(done: int, of: int) -> None:
    """One line on a terminal's stderr, gone when the answer comes."""
    sys.stderr.write("\r\x1b[K" if done == of else f"\r{done} of {of} GPU types")
    sys.stderr.flush()
