"""The man page, made from the table of commands: `docs/man/kvcalc.1`, which the wheel installs in share/man/man1.

Called by scripts/docs.py. Plain man(7) macros; every line of text is escaped once, in `_text`.
"""

from __future__ import annotations

#: Of the page's wording; the version is the program's.
DATE = "2026-11-21"
_ENVIRONMENT = {
    "KVCALC_MODELS": "A directory with more model files, like --models-dir.",
    "KVCALC_NO_CACHE": "1: neither read nor write the cache of checked model files.",
    "KVCALC_DEBUG": "1: show the traceback of a bug.",
    "XDG_CACHE_HOME": "Where caches are kept; default ~/.cache.",
    "NO_COLOR": "Set: no colour in tables.",
    "COLUMNS": "Width of tables, where the terminal does not say.",
}
_TARGETS = {
    "NAME": "a shipped model or an alias of one; kvcalc models lists them",
    "FILE.yaml": "a model file; kvcalc schema model is its JSON Schema",
    "config.json": "a Hugging Face configuration, or the folder it lies in",
    "FILE.gguf": "a GGUF file; only its header is read",
    "hf:ORG/NAME[@REVISION]": "a model on the hub: the only form that uses the network; needs the extra hub",
}


def man_page() -> str:
    """The page as roff."""
    from kvcalc.cli.spec import COMMANDS
    from kvcalc.errors import EXIT_CODES
    from kvcalc.version import __version__

    lines = [
        f'.TH KVCALC 1 {DATE} "kvcalc {__version__}" "User Commands"',
        ".SH NAME",
        r"kvcalc \- exact KV-cache memory for LLM serving",
        ".SH SYNOPSIS",
        ".B kvcalc",
        ".I command",
        r"[\fITARGET\fR] [\fIoptions\fR]",
        ".SH DESCRIPTION",
        *_text(
            "How many bytes a model's KV cache takes, how long a context and how many sessions fit, as the serving "
            "engine really allocates it. A printed number is either equal to what the engine does, or labelled as not."
        ),
        ".PP",
        *_text("128k means 131072 tokens. GiB is 2**30 bytes, GB is 10**9."),
        ".SH TARGETS",
        *_listed(_TARGETS),
        ".SH COMMANDS",
    ]
    for name, spec in COMMANDS.items():
        lines += _command(name, spec)
    lines += [".SH OPTIONS", *_options(), ".SH EXIT STATUS", *_listed({str(c): t for c, t in EXIT_CODES.items()})]
    lines += [".SH ENVIRONMENT", *_listed(_ENVIRONMENT), ".SH FILES"]
    lines += _listed({"~/.cache/kvcalc/": "model files as they were checked; may be deleted at any time"})
    lines += [".SH SEE ALSO", *_text("nvidia-smi(1)"), ".PP", *_text("kvcalc COMMAND --help explains one command.")]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _text(text: str) -> list[str]:
    """One paragraph; a line may not begin with a control character."""
    line = _escaped(" ".join(text.split()))
    return [f"\\&{line}" if line[:1] in (".", "'") else line]


def _listed(items: dict[str, str]) -> list[str]:
    lines = []
    for name, text in items.items():
        lines += [".TP", f".B {_escaped(name)}", *_text(text)]
    return lines


def _command(name: str, spec: object) -> list[str]:
    """The command's usage, its text, and its examples as they are typed."""
    from kvcalc.cli.spec import Spec, examples

    if not isinstance(spec, Spec):
        raise TypeError(name)
    usage = [f"\\fBkvcalc {_escaped(name)}\\fR"]
    if spec.argument is not None:
        usage.append(f"\\fI{_escaped(spec.argument.metavar)}\\fR")
    if spec.options:
        usage.append("[\\fIoptions\\fR]")
    paragraphs = [part for part in spec.text.split("\n\n") if not part.startswith("Example: ")]
    lines = [f".SS {_escaped(name)}", " ".join(usage)]
    for part in paragraphs:
        lines += [".PP", *_text(part)]
    own = [flag for option in spec.options for flag in option.flags[-1:]]
    if own:
        lines += [".PP", *_text(f"Options: {', '.join(own)}.")]
    lines += [".PP", ".nf", ".RS 4", *(_escaped(line) for line in examples(spec)), ".RE", ".fi"]
    return lines


def _options() -> list[str]:
    """Every option once; the commands are named where the same flag means something else elsewhere."""
    from kvcalc.cli.spec import COMMANDS

    users: dict[tuple[tuple[str, ...], str, str], list[str]] = {}
    for name, spec in COMMANDS.items():
        for option in spec.options:
            users.setdefault((option.flags, option.metavar, option.help), []).append(name)
    meanings: dict[str, int] = {}
    for flags, _, _ in users:
        meanings[flags[-1]] = meanings.get(flags[-1], 0) + 1
    lines = []
    for (flags, metavar, text), names in sorted(users.items(), key=lambda item: item[0][0][-1]):
        shown = ", ".join(f"\\fB{_escaped(flag)}\\fR" for flag in flags)
        value = f" \\fI{_escaped(metavar)}\\fR" if metavar else ""
        where = f" ({', '.join(names)})" if meanings[flags[-1]] > 1 else ""
        lines += [".TP", f"{shown}{value}", *_text(text + where)]
    return lines
