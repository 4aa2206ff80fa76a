"""`kvcalc sweep`: reads the lists, writes the rows to stdout or to a file that can be continued."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvcalc.answers.common import read_kv_dtype
from kvcalc.answers.engines import read_engines
from kvcalc.answers.sweep import Axes, Sweep, check_size
from kvcalc.cli.given import Given, read_gpu
from kvcalc.dtypes import get_dtype
from kvcalc.engines import get_engine
from kvcalc.engines.base import read_options
from kvcalc.errors import EXIT_OK, UsageError, did_you_mean, short
from kvcalc.planning.axes import count_values, kv_types, token_values
from kvcalc.planning.layouts import Division, read_division

if TYPE_CHECKING:
    from kvcalc.core.gpu import Gpu
    from kvcalc.registry import Registry
    from kvcalc.render.rowfile import Table

#: Values of the lists that are not given.
_CONTEXT, _SESSIONS, _ENGINE = "8k", "1", "ideal"
_MAX_JOBS = 256
#: Seconds between two pictures of the bar.
_REFRESH = 0.1


def run(given: Given) -> int:
    sweep = read_sweep(given)
    form, path = _output(given)
    jobs = given.whole("jobs", most=_MAX_JOBS) or _processors()
    if path is None:
        _print(sweep, form, jobs)
    else:
        from kvcalc.render.rowfile import Table

        _write(sweep, Table(path, form, sweep.columns, sweep.points, sweep.digest()), jobs, given)
    return EXIT_OK


def _processors() -> int:
    """Those this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_sweep(given: Given) -> Sweep:
    """The lists as typed. What no point could use is refused here; what one engine refuses becomes its row.

    Raises: UsageError, ModelFileError.
    """
    values, registry = given.values, given.registry()
    shared = Given({**values, "context": None, "sessions": None, "kv_dtype": None, "gpu": None}).ask()
    engines = tuple(read_engines(values.get("engines") or _ENGINE))
    for engine in engines:
        read_options(get_engine(engine)[0], shared.engine_options)
    for dtype in (shared.state_dtype, shared.index_dtype, shared.weight_dtype):
        if dtype is not None:
            get_dtype(dtype, field="dtype")
    types: tuple[str | None, ...] = (None,) if values.get("kv_dtype") is None else kv_types(values["kv_dtype"])
    for kv_type in types:
        if kv_type is not None:
            read_kv_dtype(kv_type)
    contexts = token_values(_CONTEXT if values.get("context") is None else values["context"])
    sessions = count_values(_SESSIONS if values.get("sessions") is None else values["sessions"], field="sessions")
    names = [name for text in values["targets"] for name in _named(text, registry)]
    axes = Axes(
        targets=tuple(Given({**values, "targets": list(dict.fromkeys(names))}).targets(registry)),
        engines=engines,
        gpus=_gpus(values.get("gpu"), registry),
        divisions=_divisions(values.get("divisions")),
        kv_dtypes=types,
        contexts=contexts,
        sessions=sessions,
    )
    sweep = Sweep(axes, shared)
    check_size(sweep)
    return sweep


def _named(text: str, registry: Registry) -> list[str]:
    """`all`, or a pattern like `qwen3*`: the shipped models of that name; anything else is one TARGET.

    Raises: UsageError for a pattern without a match.
    """
    names = registry.model_names()
    if text.strip().lower() == "all":
        return names
    if not any(char in text for char in "*?[") or Path(text).exists():
        return [text]
    from fnmatch import fnmatchcase

    found = [name for name in names if fnmatchcase(name, text.lower())]
    if not found:
        near = did_you_mean(text.strip("*"), names)
        raise UsageError(f"no model is called like {short(text)}", fix=near or "`kvcalc models` lists them")
    return found


def _gpus(text: str | None, registry: Registry) -> tuple[tuple[Gpu | None, int | None], ...]:
    """`h100-80gb,h200:8`; a number is the GPUs that the layout must use.

    Raises: UsageError.
    """
    if text is None:
        return ((None, None),)
    found = {}
    for part in text.split(","):
        name, count = read_gpu(part.strip())
        gpu = registry.gpu(name or "")
        found[gpu.name, count] = (gpu, count)
    return tuple(found.values())


def _divisions(text: str | None) -> tuple[Division | None, ...]:
    """`auto,tp8,tp2dp4`; auto is what `fit` chooses.

    Raises: UsageError.
    """
    parts = ["auto"] if text is None else text.split(",")
    return tuple(dict.fromkeys(None if part.strip().lower() == "auto" else read_division(part) for part in parts))


def _output(given: Given) -> tuple[str, Path | None]:
    """(format, file): the format asked for, else the file's suffix, else CSV.

    Raises: UsageError.
    """
    from kvcalc.render.rowfile import FORMATS

    values = given.values
    name = given.file()
    path = None if name is None else Path(name)
    form = values.get("row_format") or ("jsonl" if values.get("json") else None)
    if form is None:
        form = "csv" if path is None else path.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise UsageError(
            f"a sweep cannot be written as {short(form)}",
            fix=f"--format or a suffix: {', '.join(FORMATS)}",
            field="format",
        )
    if values.get("json") and form != "jsonl":
        raise UsageError(f"--json and {form} contradict", fix="keep one of them", field="format")
    if path is None:
        for name in ("resume", "force"):
            if values.get(name):
                raise UsageError(f"--{name} needs a file", fix="add --output FILE", field=name)
        if form == "parquet":
            raise UsageError("Parquet cannot be streamed", fix="add --output FILE.parquet", field="format")
    return form, path


def _print(sweep: Sweep, form: str, jobs: int) -> None:
    from kvcalc.cli.sweeping import texts
    from kvcalc.render.rowtext import header_line

    sys.stdout.write(header_line(tuple(sweep.columns), form))
    with _progress(sweep.points, 0) as show:
        for done, text in texts(sweep, form, start=0, jobs=jobs):
            sys.stdout.write(text)
            show(done)


def _write(sweep: Sweep, table: Table, jobs: int, given: Given) -> None:
    """Fill the part from where it ends; an interruption says how to go on."""
    from kvcalc.cli.sweeping import texts
    from kvcalc.render.rowfile import cannot_write, finish, need_pyarrow, open_part

    if table.form == "parquet":
        need_pyarrow()
    with open_part(table, resume=bool(given.values["resume"]), force=bool(given.values["force"])) as part:
        done = part.done
        try:
            with _progress(sweep.points, done) as show:
                for reached, text in texts(sweep, table.line_form, start=part.done, jobs=jobs):
                    part.stream.write(text.encode())
                    done = reached
                    show(done)
            finish(table, part)
        except OSError as error:
            raise cannot_write(table, error) from None
        except KeyboardInterrupt:
            sys.stderr.write(
                f"{done:,} of {sweep.points:,} points are in {table.part}: the same command with --resume goes on\n"
            )
            raise
    sys.stderr.write(f"{sweep.points:,} points in {table.path}\n")


@contextmanager
def _progress(points: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr, where stdout is not the same terminal's; gone at the end.

    No refreshing thread: processes are forked under it.
    """
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda _: None
        return
    from time import monotonic

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("points"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    task = bar.add_task("", total=points, completed=done)
    shown = 0.0

    def show(done: int) -> None:
        nonlocal shown
        if monotonic() - shown > _REFRESH:
            shown = monotonic()
            bar.update(task, completed=done, refresh=True)

    with bar:
        yield show
