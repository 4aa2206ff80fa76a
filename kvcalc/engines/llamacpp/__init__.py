"""llama.cpp: cells per slot, padded to 256; sliding layers in a cache of their own; states in F32; block formats.

`-c` is the context of one session, `-n` the slots; everything else is an option under llama.cpp's own name. Options
left out are llama-server's (the bare library keeps sliding layers whole: `-o swa_full=on`). Read from llama.cpp
0c1e57098; every number is compared with build b11549 by the live conformance suite.
"""

from __future__ import annotations

from typing import NamedTuple

from kvcalc.core.model import Model
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.llamacpp.arch import VERSIONS
from kvcalc.engines.llamacpp.planner import LlamaCppPlanner
from kvcalc.engines.llamacpp.prepare import prepare
from kvcalc.engines.llamacpp.settings import OPTIONS, read_settings


class LlamaCppEngine(NamedTuple):
    """See `kvcalc.engines.base.Engine`."""

    name: str = "llama.cpp"
    versions: tuple[str, ...] = VERSIONS
    verified_by: str = "the real library in every CI run: exact bytes of its memory breakdown"
    summary: str = "GGUF models: slots of 256-cell blocks, sliding caches, block formats"
    options: tuple[Option, ...] = OPTIONS

    def prepare(self, model: Model, setup: Setup) -> LlamaCppPlanner:
        """Rows of the model under its architecture's rules.

        Raises: EngineRefusal with llama.cpp's reason; UsageError for a layout that it has not.
        """
        return prepare(model, setup, read_settings(setup))


ENGINE = LlamaCppEngine()
