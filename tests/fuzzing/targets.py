"""One reader per format: a case is read as the command line would, and every answer examined.

What counts as a crash: any exception but a KvcalcError with an exit code of its own; more CPU time than HANG_SECONDS;
memory beyond the limit; a figure in bytes that is no whole number from 0; a cache that shrinks as the context grows;
a document that cannot be read back; an answer that depends on the order of keys; an error that says no way out;
a file half written.
"""

from __future__ import annotations

import io
import json
import math
import random
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from fuzzing.case import Case
from fuzzing.gguf_parts import put_together, take_apart
from fuzzing.outcome import Outcome, Wrong, refused, template
from kvcalc.__main__ import main
from kvcalc.answers.common import Ask
from kvcalc.answers.size import size
from kvcalc.cli.spec import COMMANDS
from kvcalc.core.plan import Load
from kvcalc.document import document_from_model, model_from_document
from kvcalc.engines import engine_names
from kvcalc.errors import KvcalcError
from kvcalc.registry import Registry, load_registry
from kvcalc.schema import load_text
from kvcalc.targets import Target, load_path
from kvcalc.yamldump import dump

_CONTEXTS = (1, 17, 4097, 131072, 2**40)
_ENGINES = [name for name in engine_names() if name != "ideal"]
_FORMATS = ("table", "plain", "json", "csv", "markdown")
_ENCODER = 1500
#: Commands and words that would fetch, measure or write: such command lines are not called.
_WRITERS = [["measure"], ["import"], ["plot"], ["report"], ["sweep"]]
_OUTWARD = ("hf:", "--save", "--force", "--measure")


@cache
def registry() -> Registry:
    return load_registry()


def place(case: Case, folder: Path) -> Path:
    """The case's files in an empty folder; the first of them."""
    for old in folder.iterdir():
        if old.name not in case:
            old.unlink()
    for name, data in case.items():
        (folder / name).write_bytes(data)
    return folder / next(iter(case))


def chance_of(case: Case) -> random.Random:
    """The same choices whenever the same case comes again."""
    return random.Random(zlib.crc32(b"".join(case.values())))


def check_figures(value: Any, path: str = "", *, signed: bool = False) -> None:
    """Raises: Wrong for a byte count that is none (below 0 unless `signed`), or a number that is not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            counts = (key == "bytes" or key.endswith("_bytes")) and not isinstance(item, dict | list | str | None)
            if counts and (type(item) is not int or (item < 0 and not signed)):
                raise Wrong(f"{key} is no byte count", f"{path} {item!r}")
            check_figures(item, f"{path}.{key}", signed=signed)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_figures(item, f"{path}.{index}", signed=signed)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Wrong(f"{path.rpartition('.')[2]} is not finite", f"{path} {value}")


def examine(target: Target, chance: random.Random) -> None:
    """Everything that must hold for a model that was accepted.

    Raises: Wrong.
    """
    model = target.model
    document = document_from_model(model)
    if model_from_document(document) != model:
        raise Wrong("the model's own document is read back as another model")
    if chance.random() < 0.04 and load_text(dump(document).encode(), file="again.yaml") != model:
        raise Wrong("the model's own YAML is read back as another model")
    answer = size(target, Ask(context_tokens=chance.choice(_CONTEXTS), sessions=3, encoder_tokens=_ENCODER))
    json.dumps(answer, allow_nan=False)
    check_figures(answer)
    if answer["total_bytes"] != sum(rank["bytes"] for rank in answer["ranks"]):
        raise Wrong("the ranks do not sum to the total")
    if answer["total_bytes"] != sum(row["bytes"] for row in answer["components"]):
        raise Wrong("the components do not sum to the total")
    if "\x1b" in model.name:
        raise Wrong("a control character in the model's name")
    _grows(target, "ideal", chance)
    if chance.random() < 0.5:
        _grows(target, chance.choice(_ENGINES), chance)


def _grows(target: Target, engine: str, chance: random.Random) -> None:
    """More context, or more sessions, never takes fewer bytes. An engine may refuse the model; ideal may not."""
    from kvcalc.answers.common import prepare

    ask = Ask(encoder_tokens=_ENCODER, engine=engine, tp=chance.choice((1, 1, 2, 8)))
    try:
        ready = prepare(target, ask, gpu=None)
        sizes = [ready.planner.plan(Load(tokens, 1, _ENCODER)).total_bytes for tokens in _CONTEXTS]
        twice = ready.planner.plan(Load(_CONTEXTS[2], 2, _ENCODER)).total_bytes
        report = ready.planner.report(Load(_CONTEXTS[2], 1, _ENCODER))
    except KvcalcError as error:
        if engine == "ideal" and ask.tp == 1:
            raise Wrong(f"accepted, and yet: {template(str(error))}", error) from None
        refused(error)
        return
    if any(type(number) is not int or number < 0 for number in sizes):
        raise Wrong(f"{engine} gives no byte counts", sizes)
    if sizes != sorted(sizes) or twice < sizes[2]:
        raise Wrong(f"{engine} is not monotone", f"tp {ask.tp}: {sizes}, two sessions {twice}")
    json.dumps(report, allow_nan=False)
    check_figures(report)


def accepted(target: Target) -> Outcome:
    """Outcomes differ in the kinds of the model and in what was said beside it."""
    model = target.model
    kinds = " ".join(sorted({kind.kind for kind in model.blocks.values()}))
    said = " ".join(sorted({template(text)[:60] for text in (*target.assumptions, *target.warnings)}))
    traits = f"{min(len(model.blocks), 4)} {model.mtp is not None} {model.dtype} {model.architecture}"
    return Outcome("accepted", f"{traits}: {kinds}; {said}"[:240])


def read_model(case: Case, folder: Path) -> Outcome:
    """A model file, a config.json, a checkpoint's folder or a GGUF."""
    path, chance = place(case, folder), chance_of(case)
    try:
        target = load_path(str(path))
    except KvcalcError as error:
        found = refused(error)
    else:
        examine(target, chance)
        _reordered(case, path, target, chance)
        found = accepted(target)
    if chance.random() < 0.002:
        _call(path, found, chance)
    return found


def _reordered(case: Case, path: Path, target: Target, chance: random.Random) -> None:
    """The order of a JSON object's keys means nothing, nor that of a GGUF's entries and bytes."""
    data = case[path.name]
    other = _other_order(path.suffix, data) if chance.random() < 0.1 else None
    if other is None:
        return
    path.write_bytes(other)
    try:
        again = load_path(str(path)).model
    except KvcalcError as error:
        raise Wrong("refused in another order", error) from None
    finally:
        path.write_bytes(data)
    ask = Ask(context_tokens=5000, encoder_tokens=_ENCODER)
    first, second = (size(target._replace(model=model), ask)["total_bytes"] for model in (target.model, again))
    if first != second:
        raise Wrong("the order changes the answer", f"{first} bytes, {second}")


def _other_order(suffix: str, data: bytes) -> bytes | None:
    """The same document in another order; None where that has no meaning."""
    if suffix == ".json":
        return json.dumps(_reversed(json.loads(data))).encode()
    parts = take_apart(data) if suffix == ".gguf" else None
    if parts is None:
        return None
    parts.entries.reverse()
    parts.order = "<" if parts.order == ">" else ">"
    return put_together(parts)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def _call(path: Path, found: Outcome, chance: random.Random) -> None:
    """The whole command line on the same file: the exit code, what is said where, no traceback, no half file."""
    text, out = str(path), path.with_name("out.yaml")
    calls = [
        ["size", text, "-c", "4097", "--encoder-tokens", "9"],
        ["fit", text, "--gpu", "h100", "--encoder-tokens", "9"],
        ["explain", text, "--encoder-tokens", "9"],
        ["variants", text, "--encoder-tokens", "9"],
        ["compare", text, "llama3", "--encoder-tokens", "9"],
        ["validate", text],
        ["import", text, "-o", str(out)],
    ]
    call = chance.choice(calls)
    code = run_command([*call, "--format", chance.choice(_FORMATS)])
    if (call[0] == "validate" or found.kind == "refused") and (code == 0) != (found.kind == "accepted"):
        raise Wrong(f"{found.kind}, but {call[0]} exits with {code}", found.shown)
    left = [item.name for item in path.parent.iterdir() if item.name.startswith(".")]
    if left or (out.exists() and code != 0):
        raise Wrong(f"{call[0]} exits with {code} and leaves {left or out.name}")
    if out.exists():
        load_text(out.read_bytes(), file="out.yaml")
        out.unlink()


def run_command(arguments: list[str]) -> int:
    """The exit code of one call in this process. Raises: Wrong."""
    return called(arguments)[0]


def called(arguments: list[str]) -> tuple[int, str]:
    """The exit code of one call in this process, and what it says on stderr.

    Raises: Wrong for a bug's exit code, an undocumented one, or an error that is not on stderr alone.
    """
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    said = err.getvalue()
    if code not in (0, 1, 2, 3, 4) or "Traceback" in said:
        raise Wrong(f"exit code {code}: {template(said)}", f"{arguments!r:.300}: {said[:300]}")
    if code in (2, 3, 4) and out.getvalue() and arguments[0] != "validate":
        raise Wrong(f"exit code {code} and yet an answer: {arguments[0]}")
    if code in (2, 3, 4) and not said and arguments[0] != "validate":
        raise Wrong(f"exit code {code} and not a word: {arguments[0]}")
    return code, said


def read_workload(case: Case, folder: Path) -> Outcome:
    """Request lengths in a file: shares of whole tokens that sum to 1, and the sessions that follow."""
    from kvcalc.cli.given import Given
    from kvcalc.cli.workloads import read_workload as read

    path, chance = place(case, folder), chance_of(case)
    try:
        found = read(Given({"workload": str(path)}))
    except KvcalcError as error:
        return refused(error)
    for lengths in (found.starts, found.ends):
        shares = lengths.values()
        if {*map(type, lengths)} != {int} or min(lengths) < 1 or not (min(shares) >= 0 and max(shares) <= 1):
            raise Wrong("a length or its share is impossible", sorted(lengths.items())[:3])
        if not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise Wrong("shares do not sum to 1", sum(shares))
    if not (found.mean_prompt > 0 and found.mean_output > 0 and found.longest >= max(found.ends)):
        raise Wrong("means or the longest request are impossible")
    if chance.random() < 0.02:
        engine = chance.choice(["vllm", "ideal", "sglang", "llama.cpp"])
        run_command(
            [
                "sessions",
                "llama3",
                "--pool",
                "24GiB",
                "-e",
                engine,
                "--workload",
                str(path),
                "--format",
                chance.choice(_FORMATS),
            ]
        )
    traits = (len(found.starts) > 1, len(found.ends) > 300, bool(found.shared_prompt), found.poisson)
    return Outcome("accepted", f"{path.suffix} {traits} {[template(note) for note in found.notes]}")


def read_log(case: Case, folder: Path) -> Outcome:
    """A start-up log: read for its meaning, and for a ledger's figures."""
    from kvcalc.answers.explain_log import explain_log
    from kvcalc.planning.startlog import read_log_file

    path, chance = place(case, folder), chance_of(case)
    model = chance.choice(["llama-3.1-8b", "deepseek-v2", "gemma-3-27b", "qwen3-next-80b-a3b"])
    target = Target(model=registry().model(model), origin=model) if chance.random() < 0.5 else None
    try:
        check_figures(read_log_file(str(path))._asdict(), signed=True)  # engines print what they lack as -1.2 GiB
    except KvcalcError as error:
        refused(error)
    try:
        answer = explain_log(str(path), target=target, gpu=registry().gpu("h100-80gb"))
    except KvcalcError as error:
        return refused(error)
    json.dumps(answer, allow_nan=False)
    check_figures(answer, signed=True)
    if chance.random() < 0.01:
        run_command(["explain-log", str(path), "--format", chance.choice(_FORMATS)])
    names = sorted({str(fact["name"]) for fact in answer["facts"]})
    return Outcome("accepted", f"{answer['engine']['name']} {answer['status']} {' '.join(names)}"[:240])


def read_measurement(case: Case, folder: Path) -> Outcome:
    """A saved measurement, checked against today's predictions."""
    from kvcalc.measure.saved import check

    path = place(case, folder)
    try:
        answer = check(str(path), registry())
    except KvcalcError as error:
        return refused(error)
    json.dumps(answer, allow_nan=False)
    check_figures(answer)
    return Outcome("accepted", f"{answer['model']['name']} {answer['engine']['name']} {answer['equal']}")


def read_arguments(case: Case, folder: Path) -> Outcome:
    """A command line ends as documented. None that would measure, fetch or write is called."""
    try:
        words = json.loads(next(iter(case.values())))
    except (ValueError, RecursionError):
        return Outcome("refused", "no JSON")
    if not isinstance(words, list):
        return Outcome("refused", "no list")
    call = [str(word).replace("\0", "").encode("utf-8", "replace").decode() for word in words]  # as argv can be
    writes = call[:1] in _WRITERS or any(word.startswith(_OUTWARD) for word in call)
    if writes or (call[:1] == ["explain-log"] and "-" in call):
        return Outcome("refused", "not called here")
    code, said = called(call)
    name = call[0] if call and call[0] in COMMANDS else ""
    return Outcome("accepted" if code < 2 else "refused", f"{name} {code} {template(said)}", said.strip())


Reader = Callable[[Case, Path], Outcome]
READERS: dict[str, Reader] = {
    "model": read_model,
    "config": read_model,
    "gguf": read_model,
    "workload": read_workload,
    "log": read_log,
    "safetensors": read_model,
    "measurement": read_measurement,
    "arguments": read_arguments,
}
