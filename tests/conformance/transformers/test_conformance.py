"""The transformers engine against transformers: every architecture, every tensor, total and per layer.

Each case saves a small checkpoint, loads it, runs it, counts its cache, and reads its config.json as a user would.
`KVCALC_WRITE_ACCURACY=1` writes what a full run found to docs/accuracy/ and the engine's list of measured architectures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import transformers
from cases import Case, discover, universe, wrappers
from exclusions import EXCLUDED, REFUSED_TOO
from measuring import Result, run

from kvcalc.engines.transformers.verified import VERIFIED
from kvcalc.errors import ModelFileError
from kvcalc.importers.hf import import_config

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "docs" / "accuracy" / "transformers.json"
VERIFIED_FILE = ROOT / "kvcalc" / "engines" / "transformers" / "verified.py"
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


def _verified_source() -> str:
    lines, line = [], ""
    for name in _equal():
        if len(line) + len(name) + 1 > 116:
            lines.append(line)
            line = ""
        line = f"{line} {name}".strip()
    body = "\n".join([*lines, line])
    head = VERIFIED_FILE.read_text().split('VERIFIED: frozenset[str] = frozenset(')[0]
    return f'{head}VERIFIED: frozenset[str] = frozenset(\n    """\n{body}\n""".split()\n)\n'
