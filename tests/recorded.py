"""What engines answered, recorded once with their own code, and the same question put to kvcalc.

Each line of tests/data/<engine>/cells.jsonl.gz is one model: engine, version, its config.json and the cells.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.importers.hf import import_config

DATA = Path(__file__).parent / "data"


def records(engine: str) -> list[dict[str, Any]]:
    """One record per model."""
    with gzip.open(DATA / engine / "cells.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def model_of(config: dict[str, Any]) -> Model:
    """The model its config.json describes."""
    return model_from_document(import_config(config).document)


def prepared(
    engine: str, model: Model, *, tp: int = 1, pp: int = 1, kv_dtype: str | None = None, **options: Any
) -> Planner:
    """The planner of `model`, started with `options`."""
    found, version = get_engine(engine)
    base = kv_dtype or model.cache_dtype or model.dtype
    dtypes = CacheDtypes(
        key=base, value=base, index=model.dtype, pending=model.dtype, conv=model.dtype, state="float32"
    )
    known = {option.name for option in found.options}
    assert set(options) <= known, set(options) - known
    setup = Setup(version=version, dtypes=dtypes, layout=Layout(tp=tp, pp=pp), options=options)
    return found.prepare(model, setup)
