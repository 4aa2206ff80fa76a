"""Every cell that MLX-LM 0.32 answered after really generating: bytes of every layer's arrays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from recorded import model_of, prepared, records

from kvcalc.core.plan import Load
from kvcalc.errors import EngineRefusal

RECORDS = records("mlx")
OPTIONS = ("kv_bits", "kv_group_size", "quantized_kv_start", "max_kv_size")


def layer_bytes(layer: dict[str, Any]) -> int:
    """Bytes of one layer's cache object, lists of caches added up."""
    return sum(map(layer_bytes, layer["caches"])) if "caches" in layer else int(layer["nbytes"])


def shrunken(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config of the shrunken model: some kept the published list of layer types beside fewer layers."""
    cut = dict(config)
    if "text_config" in cut:
        cut["text_config"] = shrunken(cut["text_config"], layers)
    return cut | {"layer_types": cut["layer_types"][:layers]} if "layer_types" in cut else cut


@pytest.mark.parametrize("record", RECORDS, ids=[record["model"] for record in RECORDS])
def test_every_recorded_cell(record: dict[str, Any]) -> None:
    """Total and per-layer bytes equal MLX-LM's; what raises there is refused; what ran out of time is skipped."""
    model = model_of(shrunken(record["config_used"], record["layers_shrunk_to"]))
    assert len(model.layers) == record["layers_shrunk_to"]
    wrong = []
    for cell in record["cells"]:
        given = cell["in"]
        options = {key: given[key] for key in OPTIONS if key in given}
        if cell.get("error") == "TimeoutError":
            continue
        if "error" in cell:
            with pytest.raises(EngineRefusal) as refused:
                prepared("mlx-lm", model, **options)
            assert cell["message"] in str(refused.value)
            continue
        planner = prepared("mlx-lm", model, max_tokens=given["decode"], **options)
        load = Load(given["prompt"] + given["decode"])
        (rank,) = planner.plan(load).ranks
        ours: Counter[int] = Counter()
        for tensor in rank.tensors:
            for layer in tensor.layers:
                ours[layer] += tensor.bytes // len(tensor.layers)
        # Caches that the shrunken model never fills (or layers without one) hold nothing.
        theirs = sorted(size for layer in cell["layers"] if (size := layer_bytes(layer)))
        if (rank.bytes, sorted(ours.values())) != (cell["total_nbytes"], theirs):
            wrong.append((given, rank.bytes, cell["total_nbytes"], sorted(ours.values()), theirs))
        assert planner.report(load)["nbytes"] == rank.bytes
    assert wrong == []


def test_the_cells_are_all_there() -> None:
    """21 models, 224 cells: a test over an empty file would pass."""
    assert (len(RECORDS), sum(len(record["cells"]) for record in RECORDS)) == (21, 224)
