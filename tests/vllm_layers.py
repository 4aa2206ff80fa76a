"""The layers vLLM builds for a model, as rows that tests can write down."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm.build import Built, build
from kvcalc.engines.vllm.settings import read_settings
from kvcalc.engines.vllm.spec import Spec


def built(model: Model, **asked: Any) -> Built:
    """The allocation, without a planner: layout, gpu, and otherwise the engine's options."""
    layout, gpu = asked.pop("layout", Layout()), asked.pop("gpu", None)
    own = dict.fromkeys(("key", "value", "index", "pending", "conv"), model.dtype) | {"state": "float32"}
    setup = Setup(version="0.33", dtypes=CacheDtypes(**own), layout=layout, options=asked, gpu=gpu)
    roles = {component.role for kind in model.blocks.values() for component in kind.lower()}
    settings = read_settings(
        model,
        setup,
        has_states=bool(roles & {"conv", "state"}),
        has_attention=bool(roles & {"key", "value"}),
        crosses=any(kind.kind == "cross" for kind in model.blocks.values()),
    )
    return build(model, settings)


def row(spec: Spec) -> tuple[object, ...]:
    """Every field in order."""
    return tuple(getattr(spec, field.name) for field in fields(spec))


def formats(model: Model, **asked: Any) -> list[tuple[object, ...]]:
    """(layer, block of the file, kind, block, page, content, body, tokens per state, span, chunk, extra, stride
    multiple, stride bytes, divided by dcp, state blocks) of each cache of the model, in layer order."""
    layers = [layer for group in built(model, **asked).groups for layer in group.layers]
    rows = [(layer.number, layer.block, *row(layer.spec)) for layer in layers]
    return sorted(rows, key=lambda each: int(str(each[0])))


def attn(
    kind: str, block: int, page: int, content: int, body: tuple[object, ...], *,
    states: int = 1, span: int = 0, extra: int = 0, multiple: int = 0, stride: int = 1,
) -> tuple[object, ...]:  # fmt: skip
    return (kind, block, page, content, body, states, span, 0, extra, multiple, stride, True, (0, 0))


def state(block: int, page: int, content: int, body: tuple[object, ...], blocks: tuple[int, int]) -> tuple[object, ...]:
    return ("mamba", block, page, content, body, 1, 0, 0, 0, 0, 1, False, blocks)
