"""Starts an engine on a model written down in a few words, for tests of one rule at a time."""

from __future__ import annotations

from typing import Any

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup


def model_of(attention: dict[str, Any], **more: Any) -> Model:
    """A model of one kind of layer, or of the named blocks that `pattern` orders; cls: its `architectures`."""
    if "cls" in more:
        more["facts"] = more.get("facts", {}) | {"architectures": more.pop("cls")}
    return model_from_document({"name": "m", "layers": 2, "dtype": "bfloat16", "attention": attention, **more})


def started(engine: str, model: Model, **asked: Any) -> Planner:
    """The planner: layout, types, gpu, and otherwise the engine's options.

    types: role -> cache type asked for; the others are the model's own, states float32.
    """
    found, version = get_engine(engine)
    layout, types, gpu = asked.pop("layout", None), asked.pop("types", None), asked.pop("gpu", None)
    own = dict.fromkeys(("key", "value", "index", "pending", "conv"), model.dtype) | {"state": "float32"}
    assert set(asked) <= {option.name for option in found.options}
    setup = Setup(
        version=version,
        dtypes=CacheDtypes(**(own | (types or {}))),
        layout=layout or Layout(),
        options=asked,
        gpu=gpu,
        asked=frozenset(types or ()),
    )
    return found.prepare(model, setup)
