from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kvcalc.cli.given import Given
from kvcalc.errors import EXIT_OK, UsageError, short

if TYPE_CHECKING:
    from kvcalc.answers.curves import Wanted


def run(given: Given) -> int:
    from kvcalc.answers.curves import curves

    path, form = given.file(), given.format()
    if path is not None:
        from kvcalc.render.plot import file_kind

        file_kind(path)  # a name that cannot be written is told before anything is computed
    wanted = _wanted(given)
    ask, registry = Given({**given.values, "engine": None, "kv_dtype": None}).ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    if wanted.what == "context" and ask.gpu is None:  # the cache needs no GPU; one that is named decides defaults
        gpu, notes = None, []
    answer = curves(given.targets(registry), ask, gpu, wanted)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    if path is not None:
        from kvcalc.render.plot import write_picture

        write_picture(answer, path)
        if form is None:
            for text in (*answer["warnings"], *_refused(answer)):
                sys.stderr.write(f"kvcalc: warning: {text}\n")
            sys.stdout.write(f"wrote {path}\n")
            return EXIT_OK
    elif form == "table" or (form is None and sys.stdout.isatty()):
        from kvcalc.render.plot.terminal import print_picture

        print_picture(answer)
        return EXIT_OK
    given.emit(answer)
    return EXIT_OK


def _refused(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [f"{row['engine']} refuses {row['model']}: {row['reason']}" for row in answer["refused"]]


def _wanted(given: Given) -> Wanted:
    """--what, --scale, --from, --to, --engines and the list of --kv-dtype.

    Raises: UsageError.
    """
    from kvcalc.answers.curves import WHAT, Wanted
    from kvcalc.answers.engines import read_engines
    from kvcalc.units import parse_tokens

    values = given.values
    what, scale = values["what"] or "context", values["scale"] or "log"
    for name, word, known in (("what", what, WHAT), ("scale", scale, ("log", "linear"))):
        if word not in known:
            raise UsageError(f"--{name} cannot be {short(word)}", fix=f"one of: {', '.join(known)}", field=name)
    _check(given, what)
    if values["engines"] is not None and values["engine"] is not None:
        raise UsageError("--engine contradicts --engines", fix="drop --engine", field="engines")
    engines = [values["engine"] or "ideal"] if values["engines"] is None else read_engines(values["engines"])
    return Wanted(
        what=what,
        engines=tuple(engines),
        kv_dtypes=read_kv_dtypes(values["kv_dtype"]),
        first=None if values["first"] is None else parse_tokens(values["first"], field="from"),
        last=None if values["last"] is None else parse_tokens(values["last"], field="to"),
        scale=scale,
    )


def read_kv_dtypes(text: str | None) -> tuple[str | None, ...]:
    """`bf16,fp8` are two types; `k=q8_0,v=q4_0` is one."""
    if text is None:
        return (None,)
    return (text,) if "=" in text else tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def _check(given: Given, what: str) -> None:
    """Raises: UsageError for an option that this picture does not depend on."""
    useless = {
        "context": (("context", "--from and --to say which contexts"), ("pool", "the cache does not depend on it")),
        "sessions": (("context", "--from and --to say which contexts"), ("sessions", "they are what is drawn")),
        "ledger": (("first", "a ledger has one context: -c"), ("last", "a ledger has one context: -c")),
    }
    flags = {"first": "--from", "last": "--to", "context": "--context", "sessions": "--sessions", "pool": "--pool"}
    for name, why in useless[what]:
        if given.values.get(name) is not None:
            raise UsageError(f"{flags[name]} changes nothing in --what {what}: {why}", fix="leave it out", field=name)
