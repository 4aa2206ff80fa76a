"""Plain calls without typer: importing it takes longer than answering (measured: 45 of 85 CPU-ms).

Reads only what is unmistakable: a known command, its arguments, options with their values. Anything else
(help, a misspelling, a missing value, an abbreviation) is typer's, which then explains. A property test holds
both parsers to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvcalc.cli.spec import COMMANDS, Opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """(command, values) of a plain call; None where typer must decide."""
    if not arguments or arguments[0] not in COMMANDS:
        return None
    command = arguments[0]
    spec = COMMANDS[command]
    by_flag: dict[str, Opt] = {flag: option for option in spec.options for flag in option.flags}
    values: dict[str, Any] = {option.name: False if option.switch else None for option in spec.options}
    positional: list[str] = []
    words = iter(arguments[1:])
    for word in words:
        if not word.startswith("-") or word == "-":
            positional.append(word)
            continue
        flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = by_flag.get(flag)
        if option is None or (option.switch and equals):
            return None
        if option.switch:
            values[option.name] = True
            continue
        text = value if equals else next(words, None)
        if text is None or (not equals and text.startswith("-")):
            return None
        if option.many:
            values[option.name] = [*(values[option.name] or ()), text]
        else:
            values[option.name] = text
    argument = spec.argument
    if argument is None:
        return None if positional else (command, values)
    if argument.many:
        values[argument.name] = positional
        return (command, values) if positional else None
    if len(positional) > 1 or (argument.required and not positional):
        return None
    values[argument.name] = positional[0] if positional else None
    return command, values
