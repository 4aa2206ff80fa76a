"""vLLM 0.33.0's own planning code, asked at full published model sizes: every number must come out equal.

The cells hold what vLLM answered for a model, a layout and a pool; the config goes through the importer, the
available bytes go in.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.document import model_from_document
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm import ENGINE
from kvcalc.engines.vllm.planner import VllmPlanner
from kvcalc.errors import EngineRefusal
from kvcalc.importers.hf import import_config

DATA = Path(__file__).parents[1] / "data" / "vllm" / "planning-0.33.0-sm90.json.gz"
#: max_model_len the models were built with: where a state's block size comes from without prefix caching.
BUILT_LEN = 131_072


@cache
def planned() -> dict[str, Any]:
    with gzip.open(DATA) as stream:
        return dict(json.load(stream))


def runs(model: str) -> list[Any]:
    return list(next(entry for entry in planned()["models"] if entry["name"] == model)["runs"])


@cache
def load_model(name: str) -> Model:
    config = next(entry for entry in planned()["models"] if entry["name"] == name)["hf_config"]
    return model_from_document(import_config(config, name=name).document)


def plan_run(model: Model, run: dict[str, Any]) -> VllmPlanner:
    """The planner of one way of starting vLLM; the emulated H100 had no FlashInfer attention."""
    options = {"max_num_batched_tokens": run["max_num_batched_tokens"], "flashinfer": False, **run["extra"]}
    if run["block_size"] is not None:
        options["block_size"] = run["block_size"]
    if run["kv_cache_dtype"] != "auto":
        options["kv_cache_dtype"] = run["kv_cache_dtype"]
    base = model.cache_dtype or model.dtype
    dtypes = CacheDtypes(
        key=base, value=base, index=model.dtype, pending=model.dtype, conv=model.dtype, state="float32"
    )
    layout = Layout(tp=run["tp"], pp=run["pp"], dcp=run["dcp"])
    return ENGINE.prepare(model, Setup(version="0.33", layout=layout, dtypes=dtypes, options=options, gpu="sm90"))


def refusal_differences(report: dict[str, Any], cell: dict[str, Any]) -> list[object]:
    """vLLM refused: needed GiB as it prints them, and the estimated maximum model length."""
    refusal = report.get("refusal")
    if refusal is None:
        return ["vLLM refuses, kvcalc does not"]
    found = (str(round(refusal["needed_bytes"] / 2**30, 2)), refusal["estimated_max_model_len"] or 0)
    expected = (cell["needed_gib"].removesuffix(" GiB"), cell["estimate"] or 0)
    return [] if found == expected else [("refusal", found, expected)]


def differences(planner: VllmPlanner, run: dict[str, Any], cell: dict[str, Any]) -> list[object]:
    """What kvcalc says otherwise than vLLM."""
    report: dict[str, Any] = planner.report(Load(cell["len"]), cell["bytes"])
    if "needed_gib" in cell:
        return refusal_differences(report, cell)
    if cell["auto"]:
        if report["auto_max_model_len"] != cell["used"]:
            return [("auto_max_model_len", report["auto_max_model_len"], cell["used"])]
        report = planner.report(Load(cell["used"]), cell["bytes"])
    if not report["starts"]:
        return [report["refusal"]["message"]]
    tp = run["tp"]
    pairs = {
        "num_gpu_blocks": (report["num_gpu_blocks"], cell["blocks"]),
        "kv_cache_tokens": (report["kv_cache_tokens"], cell["tokens"]),
        "max_concurrency": (report["max_concurrency"], cell["concurrency"]),
        "layout": (report["kv_cache_layout"], cell["layout"]),
        "block_size": (report["block_size"], run["resolved"]["block_size"]),
        "in_flight": (report["max_in_flight_tokens"], run["resolved"]["max_in_flight_tokens"]),
        "prefix_caching": (report["enable_prefix_caching"], run["resolved"]["enable_prefix_caching"]),
        "pool": ([size for size in report["pool_bytes_per_block"] for _ in range(tp)], per_rank(cell["pool"], run)),
        "allocated": ([size for size in report["allocated_bytes"] for _ in range(tp)], per_rank(cell["alloc"], run)),
        "stages": (
            [list(stage) for stage in zip(*(group["layers_per_stage"] for group in report["groups"]), strict=True)],
            cell["stages"] if len(cell["stages"]) == run["pp"] else cell["stages"][::tp],
        ),
        "groups": ([shown(group, report, run) for group in report["groups"]], groups(cell, run)),
    }
    return [(name, found, expected) for name, (found, expected) in pairs.items() if found != expected]


def per_rank(values: list[int], run: dict[str, Any]) -> list[int]:
    """The cells list every worker, or one per stage."""
    return values if len(values) == run["tp"] * run["pp"] else [value for value in values for _ in range(run["tp"])]


def shown(group: dict[str, Any], report: dict[str, Any], run: dict[str, Any]) -> list[object]:
    """One group in the cells' terms: the first stage's share of it."""
    state = group["kind"] == "MambaSpec" and group["block_size"] == report["max_model_len"]
    mixed = group["kind"] == "UniformTypeKVCacheSpecs"
    row = [group["layers_per_stage"][0], group["kind"], BUILT_LEN if state else group["block_size"]]
    row.append(group["blocks_per_request"])
    return row if run["pp"] > 1 else [*row, group["page_bytes"], group["pages"] if mixed else None]


def groups(cell: dict[str, Any], run: dict[str, Any]) -> list[list[object]]:
    rows = []
    for layers, kind, block, page, blocks, inner in cell["groups"]:
        row = [layers, kind, block, blocks]
        rows.append(row if run["pp"] > 1 else [*row, page, inner if kind == "UniformTypeKVCacheSpecs" else None])
    return rows


@pytest.mark.parametrize("name", [entry["name"] for entry in planned()["models"]])
def test_every_cell_is_equal(name: str) -> None:
    """Blocks, tokens, concurrency as a float, auto-fit, groups, block size and refusals equal vLLM's."""
    model = load_model(name)
    misses = []
    for run in runs(name):
        if "refused" in run:
            with pytest.raises(EngineRefusal):
                plan_run(model, run)
            continue
        failing = "fails" in run["cells"][0]
        if failing:
            with pytest.raises(EngineRefusal):
                plan_run(model, run)
            continue
        planner = plan_run(model, run)
        start = {key: value for key, value in run.items() if key not in ("cells", "resolved")}
        misses += [
            (start, cell["len"], cell["bytes"], diff)
            for cell in run["cells"]
            if (diff := differences(planner, run, cell))
        ]
    assert misses == []


def test_the_cells_are_all_there() -> None:
    """The fixture was not cut: 32 models, 2982 cells."""
    models = planned()["models"]
    assert len(models) == 32
    assert sum(len(run.get("cells", ())) for model in models for run in model["runs"]) == 2982


@pytest.mark.parametrize("name", [entry["name"] for entry in planned()["models"]])
def test_the_plan_is_the_start_up_check(name: str) -> None:
    """One session's plan fits a pool exactly where vLLM starts with it; more sessions add the same blocks."""
    model = load_model(name)
    for run in runs(name):
        if "refused" in run or "fails" in run["cells"][0]:
            continue
        planner = plan_run(model, run)
        for cell in run["cells"]:
            if cell["auto"]:
                continue
            need = planner.plan(Load(cell["len"])).max_rank_bytes
            assert (need <= cell["bytes"]) == ("needed_gib" not in cell)
            assert type(need) is int
        one, three = (planner.plan(Load(8192, sessions)).max_rank_bytes for sessions in (1, 3))
        null = max(stage.pool_bytes for stage in planner.built.stages)
        assert three - null == 3 * (one - null)
