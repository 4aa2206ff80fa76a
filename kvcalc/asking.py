"""A command asked from Python: keyword arguments instead of flags, the answer itself instead of a printed page.

The commands are the ones of the command line, so that there is one way from a question to its answer. Only typer
and the choice of a format stay behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from kvcalc.cli.given import Given
from kvcalc.cli.spec import COMMANDS, Argument, Opt, module_of
from kvcalc.errors import UsageError, did_you_mean, short
from kvcalc.registry import Registry
from kvcalc.targets import Target, load_target

#: How an answer is printed is no question.
_PRINTING = ("format", "json")


class Answer(dict[str, Any]):
    """What a command answers: the very dict of its JSON. `print` shows it as a pipe would get it."""

    def _page(self) -> Any:
        from kvcalc.render.views import VIEWS

        view = VIEWS.get(self.get("command", ""))
        return None if view is None else view(self)

    def __str__(self) -> str:
        from kvcalc.render.textout import plain_text

        page = self._page()
        return super().__repr__() if page is None else plain_text(page).rstrip("\n")

    def _repr_html_(self) -> str:
        """A notebook shows the tables of the page."""
        from html import escape

        from kvcalc.render.htmlout import page_html

        page = self._page()
        return f"<pre>{escape(super().__repr__())}</pre>" if page is None else page_html(page)


class Asked(Given):
    """`Given` with models that are loaded already; what would be printed is kept."""

    answer: Answer | None = None
    loaded: tuple[Target, ...] | None = None
    known: Registry | None = None

    def emit(self, answer: Mapping[str, Any]) -> None:
        self.answer = Answer(answer)

    def watched(self) -> bool:
        return False

    def registry(self) -> Registry:
        return self.known or Registry(self.values.get("models_dir"))

    def target(self, registry: Registry) -> Target:
        return self.targets(registry)[0]

    def targets(self, registry: Registry) -> list[Target]:
        if self.loaded is None:
            names = self.values.get("targets") or [self.values["target"]]
            return [self._drafted(load_target(name, registry)) for name in names]
        return [self._drafted(target) for target in self.loaded]


def ask(
    command: str,
    argument: object = None,
    *,
    loaded: tuple[Target, ...] | None = None,
    known: Registry | None = None,
    **options: object,
) -> Answer:
    """The answer of one command; a load that does not fit is an answer too, not an error.

    argument: the positional one of the command line (a list where it takes several); loaded, known: targets and
    registry to use instead of loading them.

    Raises: KvcalcError, as the command line would print it.

    >>> ask("size", "llama3", context="128k", sessions=4)["total_bytes"]
    68719476736
    """
    answering = [name for name, spec in COMMANDS.items() if any(option.name == "json" for option in spec.options)]
    if command not in answering:
        near = did_you_mean(command, answering) if isinstance(command, str) else None
        raise UsageError(
            f"no command {short(command)} that answers with a record",
            fix=near or f"one of: {', '.join(answering)}",
            field="command",
            value=command,
        )
    takes = COMMANDS[command].argument
    if argument is None and loaded is None and takes is not None and takes.required:
        raise UsageError(f"{command} asks for a {takes.name}", fix=f"name {takes.metavar}", field=takes.name)
    asked = Asked(read_values(command, options, argument))
    asked.loaded, asked.known = loaded, known
    import_module(module_of(command)).run(asked)
    if asked.answer is None:
        raise UsageError("only rank 0 of a distributed run has the answer", fix="read it there", field="rank")
    return asked.answer


def python_name(option: Opt) -> str:
    """A keyword argument is the long flag with underscores; one that may be repeated takes the plural.

    >>> [python_name(option) for option in COMMANDS["fit"].options if option.many]
    ['options']
    """
    name = option.flags[-1].removeprefix("--").replace("-", "_")
    return f"{name}s" if option.many else name


def read_values(command: str, given: Mapping[str, object], argument: object = None) -> dict[str, Any]:
    """The command's values as the command line would hand them over: text, switches and lists; None is absent.

    Raises: UsageError for an option that the command does not have, or a value that is none.
    """
    spec = COMMANDS[command]
    known = {python_name(option): option for option in spec.options if option.name not in _PRINTING}
    values: dict[str, Any] = {option.name: False if option.switch else None for option in spec.options}
    values["json"] = True  # a command that prints raw text otherwise answers instead
    for name, value in given.items():
        option = known.get(name)
        if option is None:
            fix = did_you_mean(name, list(known)) or f"one of: {', '.join(known)}"
            raise UsageError(f"{command} has no option {short(name)}", fix=fix, field=name)
        if value is not None:
            values[option.name] = _value(name, option, value)
    if spec.argument is not None:
        values[spec.argument.name] = None if argument is None else _argument(spec.argument, argument)
    return values


def _argument(takes: Argument, value: object) -> object:
    """Raises: UsageError."""
    if not takes.many:
        return _text(takes.name, value)
    return [_text(takes.name, value)] if isinstance(value, str | os.PathLike) else _texts(takes.name, value)


def _value(name: str, option: Opt, value: object) -> object:
    if option.switch:
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, not {short(value)}", fix=f"{name}=True", field=name)
        return value
    if option.many:
        return _texts(name, value)
    if name == "workload" and not isinstance(value, str | os.PathLike):
        return value
    if isinstance(value, Mapping | list | tuple):
        return ",".join(_texts(name, value))
    return _text(name, value)


def _texts(name: str, value: object) -> list[str]:
    """`{"k": "q8_0"}` is `k=q8_0`; a list is its items.

    Raises: UsageError.
    """
    if isinstance(value, Mapping):
        return [f"{_text(name, key)}={_text(name, item)}" for key, item in value.items()]
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise UsageError(f"{name} must be a list, not {short(value)}", fix=f"{name}=[...]", field=name)
    return [_text(name, item) for item in value]


def _text(name: str, value: object) -> str:
    """Raises: UsageError for what no command line could say."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{name} cannot be {short(value)}", fix="give a number or text", field=name)
    text = str(value)
    # Of a float only the digits: no command line is given 1e-05.
    return f"{value:.12f}".rstrip("0") if isinstance(value, float) and "e-" in text else text
