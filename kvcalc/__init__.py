"""kvcalc: the exact KV-cache memory calculator for LLM serving.

>>> import kvcalc
>>> kvcalc.load("llama3").cache(context="128k", sessions=4).bytes
68719476736
"""

from __future__ import annotations

from kvcalc.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.api import (
        Cache,
        LoadedModel,
        compare,
        import_model,
        json_schema,
        list_dtypes,
        list_engines,
        list_gpus,
        list_models,
        load,
        plan,
        read_log,
        validate,
    )
    from kvcalc.asking import ask
    from kvcalc.errors import KvcalcError


__all__ = [
    "Cache",
    "KvcalcError",
    "LoadedModel",
    "__version__",
    "ask",
    "compare",
    "import_model",
    "json_schema",
    "list_dtypes",
    "list_engines",
    "list_gpus",
    "list_models",
    "load",
    "plan",
    "read_log",
    "validate",
]


def __getattr__(name: str) -> Any:
    """The API is imported when it is used: the command line never pays for it."""
    if name == "KvcalcError":
        from kvcalc.errors import KvcalcError

        return KvcalcError
    if name in __all__:
        from kvcalc import api

        return getattr(api, name)
    raise AttributeError(f"module 'kvcalc' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers before the API is imported."""
    return sorted({*globals(), *__all__})
