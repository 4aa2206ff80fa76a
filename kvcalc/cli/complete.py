"""What a shell asks at each Tab: `kvcalc __complete WORD...`, the words so far, the last one unfinished.

Prints a line of flags (`words`, and `nospace`, `files`, `dirs`), then one `candidate<TAB>what it is` a line. Nothing
may go wrong visibly in the middle of somebody's command line: whatever fails offers nothing. Like the quick parser it
reads the table of commands and imports no typer.
"""

from __future__ import annotations

import sys

from kvcalc.cli.spec import COMMANDS
from kvcalc.core.light import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kvcalc.cli.spec import Argument, Opt, Spec

    #: candidate, what it is.
    Word = tuple[str, str]

_CONTEXTS = ("4k", "8k", "16k", "32k", "64k", "128k", "256k", "1m")
_DEGREES = ("1", "2", "4", "8", "16", "32", "64")


class Offer(NamedTuple):
    """Candidates for the unfinished word; files, dirs: a path is welcome, too; nospace: the word goes on."""

    words: Sequence[Word] = ()
    files: bool = False
    dirs: bool = False
    nospace: bool = False


def run(words: Sequence[str]) -> int:
    """Print the offer for these words (without the program's name)."""
    try:
        found = offer(words)
    except Exception:  # noqa: BLE001 - a traceback in a command line being typed helps nobody
        found = Offer()
    flags = [name for name in ("nospace", "files", "dirs") if getattr(found, name)]
    lines = [" ".join(["words", *flags]), *("\t".join(word).rstrip("\t") for word in found.words)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def offer(words: Sequence[str]) -> Offer:
    """What may stand at the place of the last word."""
    *before, current = words or [""]
    if not before:
        top = [(name, spec.summary) for name, spec in COMMANDS.items()]
        return _begin([*top, ("--help", "Explain."), ("--version", "Print the version.")], current)
    if before[0] not in COMMANDS:
        return Offer()
    return _in_command(before[0], before[1:], current)


def _in_command(command: str, before: Sequence[str], current: str) -> Offer:
    spec = COMMANDS[command]
    by_flag = {flag: option for option in spec.options for flag in option.flags}
    typed: dict[str, list[str]] = {}
    waiting: Opt | None = None
    places = 0
    for word in before:
        flag, equals, value = word.partition("=")
        if waiting is not None:
            typed.setdefault(waiting.name, []).append(word)
            waiting = None
        elif flag in by_flag:
            option = by_flag[flag]
            typed.setdefault(option.name, []).extend([value] if equals else [])
            waiting = None if equals or option.switch else option
        elif not word.startswith("-"):
            places += 1
    if waiting is not None:
        return _value(waiting, current, typed)
    flag, equals, value = current.partition("=")
    if equals and flag in by_flag and not by_flag[flag].switch:
        return _prefixed(f"{flag}=", _value(by_flag[flag], value, typed))
    if current.startswith("-"):
        return _options(spec, current, typed)
    if spec.argument is None or (places and not spec.argument.many):
        return Offer()
    return _argument(command, spec.argument, current, typed)


def _options(spec: Spec, current: str, typed: Mapping[str, list[str]]) -> Offer:
    """Options that were not given yet; their short form only where it is being typed."""
    found = [
        (flag, option.help)
        for option in spec.options
        if option.many or option.name not in typed
        for flag in option.flags
        if flag.startswith("--") or flag == current
    ]
    return _begin([*found, ("--help", "Explain.")], current)


def _begin(words: Iterable[Word], current: str) -> Offer:
    """Those that begin with what was typed, case forgiven where nothing else does."""
    listed = list(words)
    exact = [word for word in listed if word[0].startswith(current)]
    return Offer(exact or [word for word in listed if word[0].lower().startswith(current.lower())])


def _prefixed(prefix: str, found: Offer) -> Offer:
    return found._replace(words=[(prefix + word, what) for word, what in found.words])


def _plain(*words: str) -> Callable[[str, Mapping[str, list[str]]], Offer]:
    return lambda current, _typed: _begin([(word, "") for word in words], current)


def _value(option: Opt, current: str, typed: Mapping[str, list[str]]) -> Offer:
    """Values of one option; a file or directory where its metavar says so."""
    if option.metavar == "FILE":
        return Offer(files=True)
    if option.metavar == "DIR":
        return Offer(dirs=True)
    known = VALUES.get(option.name)
    return Offer() if known is None else known(current, typed)


def _argument(command: str, argument: Argument, current: str, typed: Mapping[str, list[str]]) -> Offer:
    """The positional argument, by what its metavar calls it."""
    name = argument.metavar.strip("[].")
    if name in ("FILE", "FILE|-"):
        return Offer(files=True)
    known = ARGUMENTS.get(f"{command} {argument.name}") or ARGUMENTS.get(argument.name)
    return Offer() if known is None else known(current, typed)


def _targets(current: str, typed: Mapping[str, list[str]]) -> Offer:
    """Shipped models; their aliases once something is typed; files."""
    return _models(current, typed)._replace(files=True)


def _models(current: str, typed: Mapping[str, list[str]]) -> Offer:
    from kvcalc.registry import load_registry

    asked = typed.get("models_dir")
    registry = load_registry(asked[-1] if asked else None)
    names = registry.model_names()
    words = [(name, "") for name in names]
    if current:
        words += [(alias, f"= {name}") for name in names for alias in registry.aliases_of(name)]
    return _begin(words, current)


def _gpus(current: str, _typed: Mapping[str, list[str]]) -> Offer:
    """GPU names; after the colon how many; after a comma the next one."""
    from kvcalc.registry import load_registry

    done, comma, last = current.rpartition(",")
    name, colon, _ = last.partition(":")
    if colon:
        counts = [(f"{done}{comma}{name}:{count}", "") for count in _DEGREES]
        return _begin(counts, current)
    registry = load_registry()
    words = [(gpu, "") for gpu in registry.gpu_names()]
    if last:
        words += [(alias, f"= {gpu.name}") for gpu in registry.gpus() for alias in gpu.aliases]
    return _prefixed(done + comma, _begin(words, last))


def _engines(current: str, _typed: Mapping[str, list[str]]) -> Offer:
    """Engine names; after @ the versions of one."""
    from kvcalc.engines import engine_names, get_engine

    name, pinned, _ = current.partition("@")
    if pinned:
        return _begin([(f"{name}@{version}", "") for version in get_engine(name)[0].versions], current)
    return _begin([(engine, "") for engine in engine_names()], current)


def _engine_list(current: str, typed: Mapping[str, list[str]]) -> Offer:
    done, comma, last = current.rpartition(",")
    found = _engines(last, typed)
    every = [("all", "every engine")] if not comma and "all".startswith(last) else []
    return _prefixed(done + comma, found._replace(words=[*every, *found.words]))


def _engine_options(current: str, typed: Mapping[str, list[str]]) -> Offer:
    """KEY= of the engine named by -e, and the values where they are a choice."""
    from kvcalc.engines import get_engine

    engine, _ = get_engine((typed.get("engine") or ["ideal"])[-1])
    key, equals, value = current.partition("=")
    if not equals:
        return _begin([(f"{option.name}=", option.help) for option in engine.options], current)._replace(nospace=True)
    option = next((option for option in engine.options if option.name == key.replace("-", "_")), None)
    if option is None:
        return Offer()
    choices = option.choices or (("on", "off") if option.parse == "switch" else ())
    return _prefixed(f"{key}=", _begin([(choice, "") for choice in choices], value))


def _dtypes(current: str, _typed: Mapping[str, list[str]]) -> Offer:
    from kvcalc.dtypes import DTYPES

    words = [(name, f"{dtype.bits_per_element:g} bits per element") for name, dtype in DTYPES.items()]
    words += [(alias, f"= {name}") for name, dtype in DTYPES.items() for alias in dtype.aliases] if current else []
    return _begin(words, current)


def _kv_dtypes(current: str, typed: Mapping[str, list[str]]) -> Offer:
    """One type, or k=TYPE,v=TYPE."""
    done, comma, last = current.rpartition(",")
    role, equals, name = last.partition("=")
    if equals:
        return _prefixed(f"{done}{comma}{role}=", _dtypes(name, typed))
    found = _dtypes(last, typed)
    roles = [(word, what) for word, what in (("k=", "of the keys"), ("v=", "of the values")) if word.startswith(last)]
    alone = bool(roles) and not found.words
    return _prefixed(done + comma, Offer([*found.words, *roles], nospace=alone))


def _schemas(current: str, _typed: Mapping[str, list[str]]) -> Offer:
    without = ("schema", "completion")
    return _begin([("model", "a model file"), *((name, "") for name in COMMANDS if name not in without)], current)


#: option name -> its values; an option that is not here takes what nobody can guess (a number, a name of the user's).
VALUES: dict[str, Callable[[str, Mapping[str, list[str]]], Offer]] = {
    "format": _plain("table", "plain", "json", "csv", "markdown"),
    "row_format": _plain("csv", "jsonl", "parquet"),
    "engine": _engines,
    "engines": _engine_list,
    "option": _engine_options,
    "gpu": _gpus,
    "kv_dtype": _kv_dtypes,
    **dict.fromkeys(("state_dtype", "index_dtype", "weight_dtype", "tier_dtype"), _dtypes),
    **dict.fromkeys(("context", "max_context", "require_context", "first", "last"), _plain(*_CONTEXTS)),
    **dict.fromkeys(("tp", "pp", "dp", "dcp"), _plain(*_DEGREES)),
    "model": _targets,
    "device": _plain("cuda", "cpu"),
    "cache": _plain("plan", "transformers"),
    "arrivals": _plain("closed", "poisson"),
    "layouts": _plain("all"),
    "divisions": _plain("auto"),
    "what": _plain("context", "sessions", "ledger"),
    "scale": _plain("log", "linear"),
}
#: argument name (after the command's, where that decides) -> what it names.
ARGUMENTS: dict[str, Callable[[str, Mapping[str, list[str]]], Offer]] = {
    **dict.fromkeys(("target", "targets", "source"), _targets),
    "models match": _models,
    "gpus match": _gpus,
    "name": _engines,
    "of": _schemas,
    "shell": _plain("bash", "zsh", "fish"),
}
