"""The command line that asks the same question again, quoted for a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

from kvcalc.cli.spec import COMMANDS


def command_line(name: str, values: Mapping[str, Any]) -> str:
    """`kvcalc NAME ...` with everything that was given, KVCALC_MODELS among it.

    >>> command_line("size", {"target": "my model.yaml", "context": "8k", "json": True})
    "kvcalc size 'my model.yaml' --context 8k --json"
    """
    spec = COMMANDS[name]
    values = {"models_dir": os.environ.get("KVCALC_MODELS") or None, **{k: v for k, v in values.items() if v}}
    words = ["kvcalc", name]
    given = values.get(spec.argument.name) if spec.argument is not None else None
    words += given if isinstance(given, list) else [given] if given else []
    for option in spec.options:
        value, flag = values.get(option.name), option.flags[-1]
        if value is None:
            continue
        if option.switch:
            words.append(flag)
            continue
        for text in value if isinstance(value, list | tuple) else [value]:
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return shlex.join(words)
