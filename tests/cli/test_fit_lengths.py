"""`fit` with request lengths: what `sessions` answers, beside what `fit` does, and the gate on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import jsonschema
import pytest
from calling import Call

from kvcalc.core.result import SessionsRecord

LENGTHS = ("--input", "p50=900,p95=3000,max=16k", "--output", "p50=150,p95=800,max=2k")
PLACES = {
    "vllm": ("llama3.1-8b", "-e", "vllm", "--gpu", "h100-80gb"),
    "replicas": ("qwen3-32b", "-e", "vllm", "--gpu", "h100-80gb:4", "--tp", "2", "--dp", "2"),
    "automatic": ("llama3-70b", "--gpu", "h100-80gb"),
    "slots": ("gemma3-27b", "-e", "llama.cpp", "--gpu", "h100-80gb"),
    "pool": ("llama3", "--pool", "24GiB", "-c", "4k", "-n", "20"),
}


@pytest.mark.parametrize("place", PLACES)
def test_at_lengths_is_what_sessions_says(call: Call, place: str) -> None:
    """`at_lengths` has every field of the sessions answer that is not fit's own, with the same values."""
    fitted = call("fit", *PLACES[place], *LENGTHS, "--json").answer
    said = call("sessions", *PLACES[place], *LENGTHS, "--json").answer
    assert fitted["at_lengths"] == {name: said[name] for name in get_type_hints(SessionsRecord)}
    assert fitted["at_lengths"]["max_sessions"] > 0
    assert set(said["assumptions"]) <= set(fitted["assumptions"])
    jsonschema.validate(fitted, call("schema", "fit").answer, jsonschema.Draft202012Validator)


def test_the_rest_of_fit_is_as_without(call: Call) -> None:
    """Lengths change nothing of what fit says about the asked context."""
    plain = call("fit", *PLACES["pool"], "--json").answer
    fitted = call("fit", *PLACES["pool"], *LENGTHS, "--json").answer
    for name in set(plain) - {"inputs", "assumptions"}:
        assert fitted[name] == plain[name]
    assert "at_lengths" not in plain


def test_a_file_is_read(call: Call, tmp_path: Path) -> None:
    """--workload FILE is the same as the shapes in it."""
    path = tmp_path / "work.yaml"
    path.write_text("prompt: {p50: 900, p95: 3000, max: 16384}\noutput: {p50: 150, p95: 800, max: 2048}\n")
    by_file = call("fit", *PLACES["vllm"], "--workload", str(path), "--json").answer
    assert by_file["at_lengths"] == call("fit", *PLACES["vllm"], *LENGTHS, "--json").answer["at_lengths"]


def _sessions(call: Call, pool: int) -> Any:
    words = ("llama3.1-8b", "-e", "vllm", "--pool", str(pool), *LENGTHS, "--json")
    return call("sessions", *words).answer["max_sessions"]


def test_the_gate_is_on_these_lengths(call: Call) -> None:
    """--require-sessions is met by sessions of these lengths: exit 1 and the memory that is missing when it is not."""
    words = ("fit", "llama3.1-8b", "-e", "vllm", "--pool", "24GiB", *LENGTHS, "--require-sessions")
    held = _sessions(call, 24 * 2**30)
    assert call(*words, str(held)).code == 0
    done = call(*words, str(held + 20), "--json")
    assert done.code == 1
    (item,) = done.answer["requirements"]
    assert (item["required"], item["held"], item["met"]) == (held + 20, held, False)
    # The pool that is said to be missing is enough, and a block of 16 tokens (2 MiB) less is not.
    enough = 24 * 2**30 + item["missing_bytes"]
    assert _sessions(call, enough) >= held + 20 > _sessions(call, enough - 2 * 2**20)
    assert f"{held + 20} sessions of these lengths required, {held} held: 20 short" in call(*words, str(held + 20)).out


def test_a_scheduler_that_is_short_misses_no_memory(call: Call) -> None:
    """Where max_num_seqs binds, no pool would help: 0 bytes are missing."""
    words = (*PLACES["vllm"], "-o", "max_num_seqs=50", *LENGTHS, "--require-sessions", "60", "--json")
    done = call("fit", *words)
    assert done.code == 1
    assert done.answer["at_lengths"]["binding_limit"] == "max_num_seqs"
    assert [item["missing_bytes"] for item in done.answer["requirements"]] == [0]


def test_both_gates(call: Call) -> None:
    """A required context is judged as ever, beside the sessions."""
    words = ("fit", *PLACES["pool"], *LENGTHS, "--require-sessions", "10", "--require-context", "64k", "--json")
    done = call(*words)
    assert done.code == 1
    assert [(item["what"], item["met"]) for item in done.answer["requirements"]] == [
        ("sessions of these lengths", True),
        ("tokens of context", False),
    ]
    assert done.answer["inputs"]["require_sessions"] == 10


def test_no_session_of_these_lengths_is_exit_1(call: Call) -> None:
    """A pool that holds the asked context but not the longest request answers 0 sessions, and exits 1."""
    words = ("fit", "llama3", "-e", "vllm", "--pool", "1GiB", "-c", "1k", "--input", "16k", "--output", "100", "--json")
    done = call(*words)
    assert done.answer["fits"]
    assert done.answer["at_lengths"]["max_sessions"] == 0
    assert done.answer["at_lengths"]["binding_limit"] == "longest_request"
    assert done.code == 1


def test_the_line_people_see(call: Call) -> None:
    """The table of what the pool holds has the number and the limit that binds."""
    out = call("fit", *PLACES["vllm"], *LENGTHS, "--format", "plain").out
    record = call("fit", *PLACES["vllm"], *LENGTHS, "--json").answer["at_lengths"]
    line = next(line for line in out.splitlines() if line.startswith("max sessions of 1,176.3 + 247.0 tokens"))
    assert f" {record['max_sessions']:,} " in line
    assert "what binds them" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--wait", "0.1"], "no request lengths"),
        (["--input", "900"], "no request lengths"),
        (["--shared-prompt", "100"], "no request lengths"),
        ([*LENGTHS, "--engines", "all"], "contradicts --engines"),
        ([*LENGTHS, "--workload", "x.yaml"], "contradict"),
        (["--workload", "nosuch.yaml"], "nosuch.yaml"),
    ],
)
def test_half_a_question_is_refused(call: Call, words: list[str], says: str) -> None:
    """Options about lengths without lengths, or beside --engines, are usage errors, never ignored."""
    done = call("fit", "llama3", "--pool", "24GiB", *words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
