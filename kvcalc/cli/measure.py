from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK, UsageError, short

if TYPE_CHECKING:
    from kvcalc.measure.full import Progress


def run(given: Given) -> int:
    from kvcalc.measure.distributed import place

    _check_options(given)
    if given.values["check"]:
        return _check(given)
    at = place()
    if at is not None:
        return _several(given, at)
    answer = _alone(given)
    if given.values["save"]:
        _save(given, answer)
    given.emit(answer)
    return EXIT_OK if answer["equal"] else EXIT_DOES_NOT_FIT


def _check_options(given: Given) -> None:
    """Raises: UsageError for options that exclude each other."""
    values = given.values
    if values["cache"] not in (None, "plan", "transformers"):
        raise UsageError(f"unknown cache {short(values['cache'])}", fix="one of: plan, transformers", field="cache")
    alone = [name for name in ("full", "save") if values[name]]
    if values["check"] and alone:
        raise UsageError("--check measures nothing", fix="leave out --until-full and --save", field="check")
    if values["limit"] is not None and not values["full"]:
        raise UsageError("--limit is the limit of --until-full", fix="add --until-full", field="limit")
    if values["full"] and values["cache"] == "transformers":
        raise UsageError("--until-full fills the plan's tensors", fix="leave out --cache", field="full")


def _alone(given: Given) -> dict[str, Any]:
    from kvcalc.measure.answer import measure
    from kvcalc.measure.devices import open_device

    ask, registry = given.ask(), given.registry()
    target = given.target(registry)
    device = open_device(given.values["device"])
    if given.values["cache"] == "transformers":
        from kvcalc.measure.hf_cache import measure_cache

        return measure_cache(target, ask, device)
    with _progress(shown=bool(given.values["full"]) and given.watched()) as progress:
        return measure(
            target,
            ask,
            device,
            gpu=given.card(ask, registry),
            full=given.values["full"],
            limit_bytes=given.amount("limit"),
            progress=progress,
        )


def _several(given: Given, at: Any) -> int:
    """One rank of a run that torchrun started; only rank 0 speaks."""
    from kvcalc.measure.distributed import DEFAULT_TIMEOUT_S, Stopping

    with Stopping() as stopping:
        from kvcalc.measure.devices import open_device
        from kvcalc.measure.run import exit_code, measure_ranks

        if given.values["full"] or given.values["cache"] == "transformers":
            raise UsageError("--until-full and --cache measure one process", fix="run it without torchrun")
        ask, registry = given.ask(), given.registry()
        answer = measure_ranks(
            given.target(registry),
            ask,
            lambda: open_device(given.values["device"], local_rank=at.local_rank, local_ranks=at.local_world),
            at,
            stopping,
            gpu=given.card(ask, registry),
            timeout_s=given.whole("timeout", most=86400) or DEFAULT_TIMEOUT_S,
        )
        if answer is None:
            return EXIT_OK
        if given.values["save"]:
            _save(given, answer)
        given.emit(answer)
        sys.stdout.flush()
        return exit_code(answer)


def _check(given: Given) -> int:
    from kvcalc.measure.saved import check

    answer = check(given.values["target"], given.registry())
    given.emit(answer)
    return EXIT_OK if answer["equal"] else EXIT_DOES_NOT_FIT


def _save(given: Given, answer: dict[str, Any]) -> None:
    from kvcalc.measure.saved import save

    save(answer, given.values["save"])


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress | None]:
    """A bar of tries on a terminal's stderr; nothing in a pipe."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("allocating", total=None)
        yield lambda what, load, tries: bar.update(task, description=f"try {tries}: {what} {load:,}")
