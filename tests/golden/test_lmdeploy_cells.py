"""Every cell that LMDeploy's PyTorch engine 0.18 answered: block bytes, blocks, prefill budget, states, pool bytes."""

from __future__ import annotations

from typing import Any

import pytest
from recorded import model_of, prepared, records

from kvcalc.core.plan import Load
from kvcalc.errors import EngineRefusal

RECORDS = records("lmdeploy")


def answer(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """kvcalc's report for the cell's launch and free memory."""
    planner = prepared(
        "lmdeploy",
        model,
        tp=given["tp"],
        block_size=given["block_size"],
        quant_policy=str(given["quant_policy"]),
        cache_max_entry_count=given["ratio"],
        max_batch_size=given["max_batches"],
        max_prefill_token_num=given["max_prefill_token_num"],
    )
    return planner.report(Load(4096), given["free_gib"] * 2**30)


@pytest.mark.parametrize("record", RECORDS, ids=[record["model"] for record in RECORDS])
def test_every_recorded_cell(record: dict[str, Any]) -> None:
    """Each value equals LMDeploy's; what it refuses is refused."""
    model = model_of(record["config"])
    wrong = []
    for cell in record["cells"]:
        if "error" in cell:
            with pytest.raises(EngineRefusal) as refused:
                answer(model, cell["in"])
            assert cell["message"] in str(refused.value)
            continue
        got, want = answer(model, cell["in"]), cell["out"]
        pairs = {
            "block_bytes": (want["block_nbytes"], got["block_bytes"]),
            "num_gpu_blocks": (want["num_gpu_blocks"], got["num_gpu_blocks"]),
            "max_prefill_token_num": (want["max_prefill_token_num"], got["max_prefill_token_num"]),
            "block_size": (want["block_size"], got["block_size"]),
            "num_state_caches": (want["num_state_caches"], got.get("num_state_caches")),
            "state_slot_bytes": (want["state_slot_nbytes"], got.get("state_slot_bytes", 0)),
            "allocated_bytes": (want["pool_nbytes"], got["allocated_bytes"]),
        }
        assert type(got["num_gpu_blocks"]) is int
        if differs := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
            wrong.append((cell["in"], differs))
    assert wrong == []


def test_the_cells_are_all_there() -> None:
    """18 models, 180 cells: a test over an empty file would pass."""
    assert (len(RECORDS), sum(len(record["cells"]) for record in RECORDS)) == (18, 180)
