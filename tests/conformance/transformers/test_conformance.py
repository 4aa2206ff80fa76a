"""The transformers engine against transformers: every architecture, every tensor, total and per layer.

Each case saves a small checkpoint, loads it, runs it, counts its cache, and reads its config.json as a user would.
`KVCALC_WRITE_ACCURACY=1` writes what a full run found: docs/accuracy/, the engine's list of measured
architectures, and the sample that the plain test suite checks without torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import transformers
from cases import Case, config_of, discover, universe, wrappers
from checking import as_json, compare, model_of
from exclusions import EXCLUDED, REFUSED_TOO
from measuring import Result, run
from running import Measured, Session, load, save

from kvcalc.engines.transformers.verified import VERIFIED
from kvcalc.errors import ModelFileError
from kvcalc.importers.hf import import_config

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "docs" / "accuracy" / "transformers.json"
VERIFIED_FILE = ROOT / "kvcalc" / "engines" / "transformers" / "verified.py"
SAMPLE = ROOT / "tests" / "data" / "transformers" / "measured.json"
CASES = discover()
RESULTS: dict[str, Result] = {}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_tensor_is_predicted(case: Case, tmp_path: Path) -> None:
    """Total and per-layer bytes equal the cache of the real code, from every form of its config.json."""
    result = RESULTS[case.id] = run(case, tmp_path)
    assert result.cells
    assert not result.wrong, "\n".join(
        f"{cell.what}: predicted {cell.predicted}, counted {cell.measured}; {cell.layers}" for cell in result.wrong[:10]
    )


def test_every_architecture_is_measured_or_excluded() -> None:
    """A model type that the library knows is a case, or is excluded by name with a reason that still applies."""
    known = universe() | {cls.model_type for cls in wrappers().values()}
    measured = {case.architecture for case in CASES}
    assert known - measured - EXCLUDED.keys() == set()
    assert measured & EXCLUDED.keys() == set()
    assert EXCLUDED.keys() - known - {"blip_text_model", "t5_gemma_module", "t5gemma2_decoder"} <= _inner_sections()


def _inner_sections() -> set[str]:
    """Decoders whose composed model is itself excluded."""
    return {name for name in EXCLUDED if name.endswith(("_text", "_text_model", "_decoder"))}


@pytest.mark.parametrize("model_type", sorted(REFUSED_TOO))
def test_what_has_no_cache_has_no_number(model_type: str) -> None:
    """The importer refuses architectures whose caches it cannot describe."""
    config = json.loads(transformers.CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    with pytest.raises(ModelFileError):
        import_config(config)


@pytest.mark.parametrize("batch", [1, 3])
def test_fp8_cache(batch: int, tmp_path: Path) -> None:
    """QuantizedCache with the fp8 backend: one byte per element and two scales per layer."""
    case = Case("llama", "causal")
    save(case, config_of(case), tmp_path)
    model = load(case, tmp_path, "bfloat16")
    session = Session(model, case, batch)
    session.kept = {"past_key_values": transformers.QuantizedCache(backend="fp8", config=model.config)}
    for tokens in (6, 1, 1):
        measured = Measured("fp8", "bfloat16", batch, session.tokens + tokens, session.advance(tokens))
        cell = compare(model_of(as_json(tmp_path)), measured)
        assert cell.equal, cell


def test_enough_is_measured() -> None:
    """At least 200 model types and 2,000 counted caches; a partial run is not judged."""
    if len(RESULTS) < len(CASES):
        pytest.skip("partial run")
    assert len({result.case.architecture for result in RESULTS.values()}) >= 200
    assert sum(result.measurements for result in RESULTS.values()) >= 2000


def test_published_table_is_this_run() -> None:
    """docs/accuracy/transformers.json and the engine's list of measured architectures are what this run found."""
    if len(RESULTS) < len(CASES):
        pytest.skip("partial run")
    found = _table()
    if os.environ.get("KVCALC_WRITE_ACCURACY") == "1":
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(json.dumps(found, indent=1) + "\n")
        VERIFIED_FILE.write_text(_verified_source())
        SAMPLE.write_text(
            json.dumps(_sample(), separators=(",", ":")).replace('{"model_type"', '\n{"model_type"') + "\n"
        )
        return
    assert json.loads(TABLE.read_text()) == found
    assert frozenset(_equal()) == VERIFIED


def _equal() -> list[str]:
    """Decoders all of whose cases are equal."""
    wrong = {result.case.model_type for result in RESULTS.values() if result.wrong or not result.cells}
    return sorted({result.case.model_type for result in RESULTS.values() if not result.case.wrapper} - wrong)


def _table() -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for result in RESULTS.values():
        row = rows.setdefault(result.case.architecture, {"cases": 0, "measurements": 0, "cells": 0, "equal": 0})
        if result.case.wrapper:
            row["decoder"] = result.case.model_type
        row["cases"] += 1
        row["measurements"] += result.measurements
        row["cells"] += len(result.cells)
        row["equal"] += len(result.cells) - len(result.wrong)
        if result.refused:
            row["refused"] = sorted({*row.get("refused", []), *result.refused})
    return {
        "engine": "transformers",
        "version": transformers.__version__,
        "proof": "the real modelling code on CPU with small random checkpoints; every tensor of the cache counted, "
        "total and per layer, against the prediction from the checkpoint's config.json",
        "architectures": dict(sorted(rows.items())),
        "not_measured": dict(sorted(EXCLUDED.items())),
    }


#: One architecture per rule, for tests without torch.
SAMPLED = """
llama mistral gemma3_text gemma3n_text llama4_text falcon gpt_bigcode deepseek_v3 deepseek_v32 deepseek_v4 glm_moe_dsa
dots3_note_text glm5_next_text mistral_large4_text qwen3_next qwen4_exp_text kimi_linear mamba mamba2 falcon_h1
nemotron_h lfm2 minimax minimax_m3_vl_text recurrent_gemma inkling_text zaya rwkv xlstm cpmant longcat_flash t5 whisper
mimo_v2_flash gemma4_text zamba2 jamba
""".split()  # noqa: SIM905  read as words


def _sample() -> dict[str, Any]:
    """config.json as saved, and every count: [phase, dtype, batch, tokens, bytes, resident bytes]."""
    cases = [
        {"model_type": result.case.model_type, "case": result.case.id, "config": result.config, "rows": result.rows}
        for result in RESULTS.values()
        if result.case.model_type in SAMPLED and not result.case.wrapper and result.case.variant != "wide-window"
    ]
    return {
        "source": f"transformers {transformers.__version__} on CPU, small random checkpoints, tensors counted",
        "cases": cases,
    }


def _verified_source() -> str:
    lines, line = [], ""
    for name in _equal():
        item = f'"{name}",'
        if len(line) + len(item) + 1 > 112:
            lines.append(line)
            line = ""
        line = f"{line} {item}".strip()
    body = "".join(f"        {text}\n" for text in [*lines, line])
    head = VERIFIED_FILE.read_text().split("VERIFIED: frozenset[str] = ")[0]
    return f"{head}VERIFIED: frozenset[str] = frozenset(\n    {{\n{body}    }}\n)  # fmt: skip\n"
