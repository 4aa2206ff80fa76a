"""Nothing that kvcalc reads can crash it: the saved corpus again, and a few fresh cases of every format."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzzing.case import Case, from_line, to_line
from fuzzing.corpus import saved
from fuzzing.gguf_parts import put_together, take_apart
from fuzzing.loop import Hang, Tally, run_case, run_chunk, try_case
from fuzzing.outcome import Outcome, Wrong, refused, template
from fuzzing.seeds import seeds
from fuzzing.targets import READERS, check_figures
from kvcalc.errors import UsageError

FRESH = {"arguments": 60, "log": 40, "measurement": 60}


def crashes(tally: Tally) -> list[str]:
    return [f"{signature}\n{to_line(case)[:1000]}\n{told}" for signature, (case, told) in tally.crashes.items()]


@pytest.mark.parametrize("name", READERS)
def test_saved_corpus(name: str, tmp_path: Path) -> None:
    """Every case that once led somewhere new is still answered or refused as it should be."""
    tally = Tally()
    for case in saved(name):
        try_case(name, case, tmp_path, tally)
    assert crashes(tally) == []
    assert tally.inputs > 30


@pytest.mark.parametrize("name", READERS)
def test_fresh_cases(name: str, tmp_path: Path) -> None:
    """Fresh cases of a fixed seed."""
    tally = run_chunk(name, seed=20, count=FRESH.get(name, 300), folder=tmp_path, corpus=list(saved(name)))
    assert crashes(tally) == []
    assert len(tally.outcomes) > 10


@pytest.mark.parametrize("name", ["model", "gguf", "workload", "measurement"])
def test_seeds_are_sound(name: str, tmp_path: Path) -> None:
    """What the mutators begin with is accepted, so that one change decides."""
    for case in seeds(name)[::5]:
        assert run_case(name, case, tmp_path).kind == "accepted", to_line(case)[:300]


def test_a_run_is_repeatable(tmp_path: Path) -> None:
    """The same seed gives the same cases and outcomes."""
    runs = [run_chunk("workload", seed=3, count=60, folder=tmp_path, corpus=[]) for _ in range(2)]
    assert runs[0].outcomes == runs[1].outcomes


def test_headers_are_put_together_as_they_were() -> None:
    """Taking a GGUF header apart and putting it together changes no byte."""
    for case in seeds("gguf")[::9]:
        for data in case.values():
            parts = take_apart(data)
            assert parts is not None
            assert put_together(parts) == data


def test_cases_are_kept_as_they_are() -> None:
    """A line of the corpus is read back to the same bytes, text or not."""
    case: Case = {"a.yaml": "name: ä\r\n".encode(), "b.gguf": bytes(range(256))}
    assert from_line(to_line(case)) == case


def test_the_judge_sees_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash, a hang, a wrong figure and an error that helps nobody are each found."""
    for bad in ({"bytes": -1}, {"a": [{"pool_bytes": 1.0}]}, {"share": float("nan")}):
        with pytest.raises(Wrong):
            check_figures(bad)
    with pytest.raises(Wrong, match="no way out"):
        refused(UsageError("bad"))

    def hangs(case: Case, folder: Path) -> Outcome:
        while True:
            pass

    def crash(case: Case, folder: Path) -> Outcome:
        raise ZeroDivisionError

    tally = Tally()
    monkeypatch.setattr("fuzzing.loop.HANG_SECONDS", 0.05)
    for reader in (hangs, crash):
        monkeypatch.setitem(READERS, "model", reader)
        try_case("model", {"model.yaml": b""}, tmp_path, tally)
    assert sorted(name.split()[0] for name in tally.crashes) == [Hang.__name__, "ZeroDivisionError"]


def test_templates_forget_what_a_case_is_called() -> None:
    """Equal reasons are one outcome, whatever the names and numbers."""
    chance = random.Random(1)
    texts = {template(f"/{chance.random()}/a.yaml:{n}: layers is {n}, not 'x{n}'") for n in range(9)}
    assert len(texts) == 1
