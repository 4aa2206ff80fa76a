"""The measurements that are kept, and the script that makes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvcalc.measure.saved import check
from kvcalc.registry import load_registry

ROOT = Path(__file__).parents[3]
KEPT = sorted((ROOT / "docs" / "measurements").rglob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_todays_prediction_is_what_was_measured(path: Path) -> None:
    """Every kept measurement is still equal, tensor by tensor."""
    answer = check(str(path), load_registry(None))
    assert answer["equal"] is True
    assert answer["missing_ranks"] == []


def test_there_are_measurements() -> None:
    """The folder is not empty, and holds one run until full."""
    assert len(KEPT) >= 29
    assert any("until-full" in path.stem for path in KEPT)


def test_one_command_makes_them(tmp_path: Path) -> None:
    """The script measures every case, keeps the reports and ends with their count."""
    command = [sys.executable, str(ROOT / "benchmarks" / "measure_all.py"), "--device", "cpu", "--out", str(tmp_path)]
    more = ["--contexts", "16,32", "--sessions", "1", "--models", "llama-3-8b,mamba-codestral-7b", "--limit", "1MiB"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"17 equal, 0 differ, 0 do not fit; reports in {tmp_path}" in done.stdout
    files = list(tmp_path.rglob("*.json"))
    assert len(files) == 17
    assert all(json.loads(file.read_text())["equal"] for file in files)
