"""Every cell that SGLang 0.5.23 answered: budget, prices, tokens, slots, requests, storage by attribute, log text."""

from __future__ import annotations

from typing import Any

import pytest
from recorded import model_of, prepared, records

from kvcalc.core.plan import Load
from kvcalc.errors import EngineRefusal

RECORDS = records("sglang")
#: SGLang's own launch state, which its options imply.
IMPLIED = {"uses_mamba_radix_cache", "_swa_full_tokens_ratio_explicitly_set"}
#: Recorded name -> name in the report.
COMMON = {
    "budget_bytes": "budget_bytes",
    "max_total_num_tokens": "max_total_num_tokens",
    "full": "full_max_total_num_tokens",
    "swa": "swa_max_total_num_tokens",
    "mamba_slots": "max_mamba_cache_size",
    "max_running_requests": "max_running_requests",
}


def answer(model: Any, cell: dict[str, Any]) -> dict[str, Any]:
    """kvcalc's report for the cell's launch and budget."""
    given = cell["in"]
    options = {key: value for key, value in given.get("fields", {}).items() if key not in IMPLIED}
    if "dp" in given:
        options["dp_size"] = given["dp"]
    planner = prepared(
        "sglang",
        model,
        tp=given["tp"],
        pp=given.get("pp", 1),
        page_size=given["page"],
        kv_cache_dtype=given["kv"],
        **options,
    )
    # What mem_fraction_static keeps free is not part of the pool.
    pool = given["avail"] - given.get("pre", 0) * (1 - given.get("frac", 1.0))
    return planner.report(Load(4096), int(pool * 2**30))


def compared(given: dict[str, Any], got: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """Values of one rank that differ: name -> (SGLang's, ours)."""
    staged = "stages" in got
    rank = got["stages"][given["stage"]] if staged else got
    pairs = {name: (given[name], got[ours]) for name, ours in COMMON.items()}
    if given["cell_size"] is not None:
        pairs["cell_size"] = (given["cell_size"], rank["cell_size"])
    pairs["storage"] = (given["storage"], rank["storage"])
    pairs["log"] = (given["log"], rank["log"])
    if not staged:
        for name in ("bytes_per_full_token", "bytes_per_swa_token", "mamba_cache_per_req"):
            if name in given:
                pairs[name] = (given[name], got[name])
        for name in ("c4", "c128"):
            if given[name]:
                pairs[name] = (given[name], got[f"{name}_max_total_num_tokens"])
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@pytest.mark.parametrize("record", RECORDS, ids=[record["model"] for record in RECORDS])
def test_every_recorded_cell(record: dict[str, Any]) -> None:
    """Each value equals SGLang's; what SGLang refuses, or has no class for, is refused."""
    native = record["derived_by_sglang"]["sglang_native_class"]
    model = model_of(record["config"])
    wrong = []
    for cell in record["cells"]:
        if not native or "error" in cell:
            with pytest.raises(EngineRefusal) as refused:
                answer(model, cell)
            if native:
                assert str(refused.value).startswith(cell["message"][:60])
            continue
        got = answer(model, cell)
        assert type(got["max_total_num_tokens"]) is int
        assert type(got["allocated_bytes"]) is int
        for rank in cell["out"]:
            if differs := compared(rank, got):
                wrong.append((cell["in"], differs))
    assert wrong == []


def test_the_cells_are_all_there() -> None:
    """120 models, 2674 cells: a test over an empty file would pass."""
    assert (len(RECORDS), sum(len(record["cells"]) for record in RECORDS)) == (120, 2674)
