"""Every cell that ExLlamaV3 1.6.5 answered: storage of each group of layers, pages and per-slot states."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from recorded import model_of, prepared, records

from kvcalc.core.plan import Load

RECORDS = records("exllamav3")


@pytest.mark.parametrize("record", RECORDS, ids=[record["model"] for record in RECORDS])
def test_every_recorded_cell(record: dict[str, Any]) -> None:
    """Total storage, and the bytes of every kind of layer and how many there are, equal ExLlamaV3's."""
    model = model_of(record["config"])
    wrong = []
    for cell in record["cells"]:
        given = cell["in"]
        bits = {} if given["bits"] is None else {"k_bits": given["bits"][0], "v_bits": given["bits"][1]}
        planner = prepared(
            "exllamav3", model, max_batch_size=given["max_batch_size"], max_history=given["max_history"], **bits
        )
        (rank,) = planner.plan(Load(given["max_num_tokens"])).ranks
        # Per layer what lies in pages and what lies in slots, as ExLlamaV3 keeps them in two objects.
        layers: Counter[tuple[int, str]] = Counter()
        for tensor in rank.tensors:
            for layer in tensor.layers:
                layers[layer, "kv" if tensor.kind == "page" else "recurrent"] += tensor.bytes // tensor.count
        ours = Counter((where, size) for (_, where), size in layers.items())
        theirs: Counter[tuple[str, int]] = Counter()
        for group in cell["groups"]:
            theirs[group["group"], group["storage_size"]] += group["n"]
        report = planner.report(Load(given["max_num_tokens"]))
        if (rank.bytes, report["storage_size"], ours) != (cell["total_allocated"], cell["total_storage_size"], theirs):
            wrong.append((given, rank.bytes, cell["total_allocated"], ours, theirs))
        assert type(rank.bytes) is int
    assert wrong == []


def test_the_cells_are_all_there() -> None:
    """23 models, 230 cells: a test over an empty file would pass."""
    assert (len(RECORDS), sum(len(record["cells"]) for record in RECORDS)) == (23, 230)
