"""The cache classes of transformers, built from published configs and filled, hold what the engine's plan says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvcalc.answers.common import Ask
from kvcalc.errors import CannotMeasure, EngineRefusal, KvcalcError
from kvcalc.measure.devices import open_device
from kvcalc.measure.hf_cache import measure_cache
from kvcalc.targets import load_path

FIXTURES = Path(__file__).parents[2] / "data" / "hf" / "configs.jsonl"
CONFIGS: dict[str, dict[str, Any]] = {
    record["repo"]: record["config"] for record in map(json.loads, FIXTURES.read_text().splitlines())
}
#: Shorter and longer than common windows, and no multiple of anything.
TOKENS = (1, 70, 1500)


def measure(repo: str, tmp_path: Path, tokens: int, cache: str) -> dict[str, Any]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS[repo]))
    ask = Ask(context_tokens=tokens, sessions=2, engine_options=(f"cache={cache}",))
    return measure_cache(load_path(str(path)), ask, open_device("cpu"))


@pytest.mark.parametrize("cache", ["dynamic", "static", "fp8"])
@pytest.mark.parametrize("repo", list(CONFIGS))
def test_real_classes_hold_the_plan(repo: str, cache: str, tmp_path: Path) -> None:
    """Every tensor, at several lengths; what cannot be built is refused in words, never measured as something else."""
    for tokens in TOKENS:
        try:
            answer = measure(repo, tmp_path, tokens, cache)
        except (CannotMeasure, EngineRefusal) as error:
            print("REFUSED", repo, cache, error)
            return
        rows = answer["measured_ranks"][0]["tensors"]
        assert [row for row in rows if not row["equal"]] == []
        assert answer["predicted_bytes"] == answer["requested_bytes"]
