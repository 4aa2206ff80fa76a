"""Several processes: torchrun starts two ranks, one report comes out; a rank that dies is named, nothing hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvcalc.errors import UsageError
from kvcalc.measure.distributed import Place, Stopped, Stopping, place
from kvcalc.measure.run import measure_ranks

ROOT = Path(__file__).parents[3]
MODEL = """
name: small
source: {note: made for this test}
layers: 5
dtype: bfloat16
attention: {kind: gqa, heads: 8, groups: 4, head_dim: 64}
"""
#: Rank 1 is killed the hard way in the middle of its measurement.
KILLED = """
import os, signal, sys
import kvcalc.measure.run as run
from kvcalc.__main__ import main
if os.environ["RANK"] == "1":
    run.measure_load = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main(sys.argv[1:]))
"""


def torchrun(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    model = tmp_path / "small.yaml"
    model.write_text(MODEL)
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    measured = ["measure", str(model), "-c", "1000", "--device", "cpu", "--json"]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments, *measured, "--pp", "2"], capture_output=True, text=True, timeout=120, env=variables
    )


def test_two_ranks_make_one_report(tmp_path: Path) -> None:
    """Each rank measures its own stage: 3 and 2 layers x 1,000 tokens x 2 x 4 x 64 x 2 bytes."""
    done = torchrun(tmp_path, "-m", "kvcalc")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    ranks = [(rank["ranks"], rank["predicted_bytes"], rank["requested_bytes"]) for rank in answer["measured_ranks"]]
    assert ranks == [([0], 3 * 1024000, 3 * 1024000), ([1], 2 * 1024000, 2 * 1024000)]
    assert answer["requested_bytes"] == 5 * 1024000
    assert answer["equal"] is True
    assert answer["missing_ranks"] == []


def test_a_killed_rank_is_named(tmp_path: Path) -> None:
    """SIGKILL on rank 1: rank 0 reports that it is missing, and the run ends with a failure."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = torchrun(tmp_path, str(script))
    assert done.returncode != 0
    answer = json.loads(done.stdout)
    assert 1 in answer["missing_ranks"]
    assert answer["equal"] is False
    assert any("rank 1: ended, or was killed" in warning for warning in answer["warnings"])


class Store:
    """What the ranks share, in one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> str:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr("kvcalc.measure.distributed.open_store", lambda timeout_s: made)
    return made


def one_rank(tmp_path: Path, rank: int, *, tp: int = 2, timeout_s: int = 1) -> dict[str, Any] | None:
    from kvcalc.answers.common import Ask
    from kvcalc.measure.devices import open_device
    from kvcalc.targets import load_path

    model = tmp_path / "small.yaml"
    model.write_text(MODEL)
    with Stopping() as stopping:
        return measure_ranks(
            load_path(str(model)),
            Ask(context_tokens=10, tp=tp),
            lambda: open_device("cpu"),
            Place(rank, 2, rank, 2),
            stopping,
            timeout_s=timeout_s,
        )


def test_a_silent_rank_is_waited_for_no_longer_than_asked(tmp_path: Path, store: Store) -> None:
    """Without a launcher nothing says that a rank died: the timeout does."""
    answer = one_rank(tmp_path, 0)
    assert answer is not None
    assert answer["missing_ranks"] == [1]
    assert answer["warnings"][-1] == "rank 1: no report within 1 s"


def test_a_rank_that_cannot_measure_says_why(tmp_path: Path, store: Store) -> None:
    """Its reason is in the one report."""
    store.set("kvcalc/rank/1", json.dumps({"error": "cpu has 1 B free"}))
    answer = one_rank(tmp_path, 0)
    assert answer is not None
    assert answer["warnings"][-1] == "rank 1: cpu has 1 B free"
    assert answer["missing_ranks"] == [1]


def test_other_ranks_wait_for_the_report(tmp_path: Path, store: Store) -> None:
    """A rank hands over its record and gets no answer of its own."""
    store.set("kvcalc/verdict", "done")
    assert one_rank(tmp_path, 1) is None
    sent = json.loads(store.get("kvcalc/rank/1"))["record"]
    assert sent["measured_ranks"][0]["ranks"] == [1]
    assert sent["equal"] is True


def test_processes_and_layout_must_agree(tmp_path: Path) -> None:
    """Two processes for one rank, or four, is a usage error that says both numbers."""
    with pytest.raises(UsageError, match="2 processes were started for a layout of 4 ranks"):
        one_rank(tmp_path, 0, tp=4)


def test_a_stop_is_remembered_and_interrupts_once() -> None:
    """The launcher's SIGTERM interrupts a measurement, and is only noted elsewhere."""
    import signal

    with Stopping() as stopping:
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked
        with pytest.raises(Stopped):
            stopping.interruptible(True)
    with Stopping() as stopping:
        stopping.interruptible(True)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, None),
        ({"RANK": "3", "WORLD_SIZE": "8"}, None),  # a scheduler's variables without a meeting point
        ({"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, Place(3, 8, 3, 8)),
        (
            {
                "RANK": "5",
                "WORLD_SIZE": "8",
                "MASTER_ADDR": "a",
                "MASTER_PORT": "1",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "4",
            },
            Place(5, 8, 1, 4),
        ),
    ],
)
def test_where_the_process_is(values: dict[str, str], expected: Place | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a launcher's full set of variables makes a run of several processes."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert place() == expected
