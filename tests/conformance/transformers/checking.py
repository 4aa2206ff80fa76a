"""What kvcalc predicts for a config, as a user would ask: config.json -> importer -> model -> engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import ENCODER_TOKENS, Measured

from kvcalc.answers.common import Ask, cache_dtypes
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load
from kvcalc.engines.base import Setup
from kvcalc.engines.transformers import ENGINE
from kvcalc.importers.hf import import_config
from kvcalc.schema import check_document

#: Lists that a class derives itself; older config.json files do not have them.
DERIVED_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types")


@dataclass(frozen=True)
class Cell:
    """One comparison: what was asked, both totals, and the first layer that differs."""

    what: str
    predicted: int
    measured: int
    layers: str = ""

    @property
    def equal(self) -> bool:
        return self.predicted == self.measured and not self.layers


def as_json(folder: Path) -> dict[str, Any]:
    """The config.json that save_pretrained wrote."""
    return dict(json.loads((folder / "config.json").read_text()))


def model_of(document: dict[str, Any]) -> Model:
    return check_document(import_config(document).document, file="config.json")


def predict(model: Model, measured: Measured, *, encoder_tokens: int, view: str) -> CachePlan:
    options = {"cache": measured.phase if measured.phase in ("static", "fp8") else "dynamic", "view": view}
    setup = Setup(version="5.23", dtypes=cache_dtypes(model, Ask(kv_dtype=measured.dtype)), options=options)
    return ENGINE.prepare(model, setup).plan(Load(measured.tokens, measured.batch, encoder_tokens))


def per_layer(plan: CachePlan, layers: int) -> list[int]:
    sizes = [0] * layers
    for tensor in plan.ranks[0].tensors:
        for layer in tensor.layers:
            sizes[layer] += tensor.bytes // tensor.count
    return sizes


def compare(model: Model, measured: Measured, *, encoder_tokens: int = ENCODER_TOKENS, view: str = "logical") -> Cell:
    """Total and per layer. A kvcalc layer with two attentions is two layers of the library's cache."""
    plan = predict(model, measured, encoder_tokens=encoder_tokens, view=view)
    counted = measured.counted
    sizes, total = (counted.logical, counted.total) if view == "logical" else (counted.resident, counted.resident_total)
    what = f"{measured.phase} {view} {measured.dtype} batch {measured.batch} tokens {measured.tokens}"
    differing = ""
    if sizes:
        predicted = per_layer(plan, len(model.layers))
        while len(sizes) > len(predicted) and not sizes[-1]:
            sizes = sizes[:-1]  # a static cache is made for as many layers as the longer of encoder and decoder has
        step = max(len(sizes) // len(predicted), 1)
        grouped = [sum(sizes[index : index + step]) for index in range(0, len(sizes), step)]
        if len(grouped) != len(predicted):
            differing = f"{len(predicted)} layers predicted, {len(grouped)} counted"
        else:
            differing = "; ".join(
                f"layer {index}: predicted {mine}, counted {theirs}"
                for index, (mine, theirs) in enumerate(zip(predicted, grouped, strict=True))
                if mine != theirs
            )[:300]
    return Cell(what, plan.total_bytes, total, differing)
