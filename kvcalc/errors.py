"""Errors a user can act on: what is wrong, where, and how to put it right.

Every expected failure is a `KvcalcError`; `cli` turns it into two lines on stderr (or one JSON object)
and the exit code of its class. Anything else that escapes is a bug and exits with 70.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_DOES_NOT_FIT = 1
EXIT_USAGE = 2
EXIT_MODEL_FILE = 3
EXIT_CANNOT_MEASURE = 4
EXIT_BUG = 70

#: A name in a file can be of any length; a message about it cannot.
MAX_SENTENCE = 500

EXIT_CODES: dict[int, str] = {
    EXIT_OK: "ok",
    EXIT_DOES_NOT_FIT: "the answer is 'does not fit', the engine refuses to run this, or `doctor` found a problem",
    EXIT_USAGE: "usage: unknown model, GPU or dtype, bad option or value",
    EXIT_MODEL_FILE: "a model file is malformed, contradictory or incomplete",
    EXIT_CANNOT_MEASURE: "cannot measure here: no torch, no device, not enough memory",
    EXIT_BUG: "a bug in kvcalc",
}


class KvcalcError(ValueError):
    """An expected failure: one line of what, one line of how to fix it, and the exit code.

    >>> print(UsageError("unknown dtype 'fp7'", fix="one of: fp16, fp8"))
    unknown dtype 'fp7'
    """

    exit_code = EXIT_USAGE
    kind = "error"

    def __init__(
        self,
        what: str,
        *,
        fix: str | None = None,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
        value: object = None,
    ) -> None:
        what = shortened(printable(what), MAX_SENTENCE)
        super().__init__(what)
        self.what = what
        self.fix = None if fix is None else shortened(printable(fix), MAX_SENTENCE)
        self.file = file
        self.line = line
        self.field = field
        self.value = value

    @property
    def sentence(self) -> str:
        """What and where, nothing said twice.

        >>> print(ModelFileError("heads is 0", file="a.yaml", line=5, field="attention.heads").sentence)
        a.yaml:5: attention.heads is 0
        """
        file, field = printable(self.file or ""), shortened(printable(self.field or ""))
        if not file or file in self.what:
            return self.what
        place = file if self.line is None else f"{file}:{self.line}"
        if not field or self.what.startswith(f"{field} "):
            return f"{place}: {self.what}"
        last = field.rpartition(".")[2]
        if self.what.startswith(f"{last} "):
            return f"{place}: {field}{self.what.removeprefix(last)}"
        return f"{place}: {field}: {self.what}"

    def as_dict(self) -> dict[str, object]:
        """The error as the JSON object that `--json` prints on stderr."""
        record: dict[str, object] = {
            "kind": self.kind,
            "message": str(self),
            "fix": self.fix,
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "value": None if self.value is None else short(self.value),
            "exit_code": self.exit_code,
        }
        return {"error": {key: value for key, value in record.items() if value is not None}}


class UsageError(KvcalcError):
    """The command line (or an API argument) asks for something that does not exist."""

    kind = "usage"


class ModelFileError(KvcalcError):
    """A model file cannot be read, or says something impossible."""

    exit_code = EXIT_MODEL_FILE
    kind = "model_file"


class EngineRefusal(KvcalcError):
    """The engine itself would refuse this model, dtype or layout; the message gives its reason."""

    exit_code = EXIT_DOES_NOT_FIT
    kind = "engine_refusal"


class CannotMeasure(KvcalcError):
    """No torch, no device, or not enough memory to allocate the prediction."""

    exit_code = EXIT_CANNOT_MEASURE
    kind = "cannot_measure"


class Bug(KvcalcError):
    """Something that was not expected escaped: kvcalc is wrong, not the user."""

    exit_code = EXIT_BUG
    kind = "bug"


def short(value: object, limit: int = 60) -> str:
    """`repr` of a value the user gave, cut so that a message stays one line."""
    return shortened(repr(value), limit)


def shortened(text: str, limit: int = 60) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """The text on one line and without anything a terminal would obey: keys and names of files can hold both.

    >>> printable("a" + chr(9) + "b") == "a" + chr(92) + "tb"
    True
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def did_you_mean(word: str, known: list[str] | tuple[str, ...], *, most: int = 3) -> str | None:
    """A suggestion of near names, or None where nothing is near.

    >>> did_you_mean("heds", ["heads", "groups"])
    'did you mean heads?'
    """
    import difflib  # only an error needs it: 3 ms of every start otherwise

    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(lowered), n=most, cutoff=0.6)
    if not near:
        return None
    return printable(f"did you mean {' or '.join(shortened(lowered[name]) for name in near)}?")
