"""Workload files, traces and inline shapes; what is refused and how it says so."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from calling import Call

from kvcalc.errors import UsageError
from kvcalc.planning.workload import Requests, from_document, from_rows, inline, make_workload, mean_of, shape


def quantile(lengths: dict[int, float], share: float) -> int:
    total = 0.0
    for tokens in sorted(lengths):
        total += lengths[tokens]
        if total >= share:
            return tokens
    return max(lengths)


def test_percentiles_come_back() -> None:
    """A lognormal shape has the percentiles it was given, to the width of its points."""
    lengths = shape({"p50": 900, "p95": 3000, "max": 65536}, "prompt")
    assert abs(sum(lengths.values()) - 1) < 1e-9
    assert abs(quantile(lengths, 0.5) / 900 - 1) < 0.05
    assert abs(quantile(lengths, 0.95) / 3000 - 1) < 0.08
    sigma = math.log(3000 / 900) / 1.6448536
    assert abs(mean_of(lengths) / (900 * math.exp(sigma * sigma / 2)) - 1) < 0.01


def test_mean_and_sigma() -> None:
    """`mean` is the mean, not the median."""
    assert abs(mean_of(shape({"mean": 500, "sigma": 0.8, "max": 10**6}, "prompt")) / 500 - 1) < 0.01


def test_max_cuts() -> None:
    """Nothing is longer than max; what would be is as long as max."""
    lengths = shape({"p50": 900, "p95": 9000, "max": 1000}, "prompt")
    assert max(lengths) == 1000
    assert lengths[1000] > 0.4


@pytest.mark.parametrize(("doc", "mean"), [({"fixed": 512}, 512), (512, 512), ({"uniform": [100, 700]}, 400)])
def test_plain_shapes(doc: Any, mean: int) -> None:
    """Fixed and uniform lengths."""
    assert mean_of(shape(doc, "prompt")) == pytest.approx(mean)


def test_trace_equals_its_shape() -> None:
    """A trace of equal requests is the fixed workload."""
    trace, fixed = from_rows([(512, 128)] * 3), make_workload([Requests(1, {512: 1.0}, {128: 1.0})])
    assert (trace.starts, trace.ends, trace.longest) == (fixed.starts, fixed.ends, 639)


def test_mix_weighs() -> None:
    """Weights are relative; shared prompt and arrivals are read."""
    part = {"prompt": {"fixed": 100}, "output": {"fixed": 10}}
    other = {"prompt": {"fixed": 1000}, "output": {"fixed": 10}}
    found = from_document(
        {"mix": [{"weight": 3, **part}, {"weight": 1, **other}], "shared_prompt": 64, "arrivals": "poisson"}
    )
    assert found.mean_prompt == pytest.approx(325)
    assert (found.shared_prompt, found.poisson) == (64, True)


@pytest.mark.parametrize(
    ("doc", "field"),
    [
        ({"prompt": {"p50": 900}, "output": 5}, "prompt"),
        ({"prompt": {"p50": 900, "p95": 100}, "output": 5}, "prompt.p95"),
        ({"prompt": {"p50": 900, "p95": 1000, "sigma": 1}, "output": 5}, "prompt"),
        ({"prompt": {"fixed": 0}, "output": 5}, "prompt.fixed"),
        ({"prompt": {"fixed": True}, "output": 5}, "prompt.fixed"),
        ({"prompt": {"uniform": [5, 1]}, "output": 5}, "prompt.uniform"),
        ({"prompt": {"p5O": 900}, "output": 5}, "prompt.p5O"),
        ({"prompt": 5}, "output"),
        ({"prompt": 5, "output": 5, "mix": []}, "mix"),
        ({"mix": [{"weight": 0, "prompt": 5, "output": 5}]}, "mix.0.weight"),
        ({"mix": [{"weight": float("nan"), "prompt": 5, "output": 5}]}, "mix.0.weight"),
        ({"prompt": 5, "output": 5, "arrivals": "sometimes"}, "arrivals"),
        ({"prompt": 5, "output": 5, "shared_prompt": -1}, "shared_prompt"),
        ({"promt": 5}, "promt"),
        ([], "workload"),
    ],
)
def test_faults_name_the_field(doc: Any, field: str) -> None:
    """Every fault is a usage error that names its field."""
    with pytest.raises(UsageError) as caught:
        from_document(doc)
    assert caught.value.field == field
    assert caught.value.fix


@pytest.mark.parametrize("text", ["p50=900", "p50=x,p95=2", "p50=1,p50=2", "uniform=5", "sigma=nan,p50=3", ""])
def test_inline_faults(text: str) -> None:
    """The same for shapes on the command line."""
    with pytest.raises(UsageError):
        inline(text, "p50=1,p95=2")


def test_files_agree(call: Call, tmp_path: Path) -> None:
    """YAML, JSON, CSV and JSONL of the same requests, and the inline form, give the same answer."""
    (tmp_path / "w.yaml").write_text("prompt: {fixed: 512}\noutput: {fixed: 128}\n")
    (tmp_path / "w.json").write_text(json.dumps({"prompt": 512, "output": 128}))
    (tmp_path / "w.csv").write_text("id,prompt_tokens,output_tokens\n" + "a,512,128\n" * 4)
    (tmp_path / "w.jsonl").write_text('{"prompt_tokens": 512, "output_tokens": 128}\n\n' * 4)
    base = ("sessions", "llama3.1-8b", "-e", "vllm", "-o", "num_gpu_blocks_override=2134", "--json")
    found = {
        call(*base, "--workload", str(tmp_path / f"w.{kind}")).answer["max_sessions"]
        for kind in ("yaml", "json", "csv", "jsonl")
    }
    found.add(call(*base, "--input", "512", "--output", "128").answer["max_sessions"])
    assert found == {57}  # measured with vLLM's scheduler: 57.8


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "prompt,output\n1,2\n", "prompt_tokens"),
        ("a.csv", "prompt_tokens,output_tokens\n1,x\n", "a.csv:2"),
        ("a.csv", "prompt_tokens,output_tokens\n", "no requests"),
        ("a.jsonl", "[1]\n", "a.jsonl:1"),
        ("a.jsonl", '{"prompt_tokens": 0, "output_tokens": 1}\n', "a.jsonl:1"),
        ("a.yaml", "prompt: [\n", "a.yaml"),
    ],
)
def test_file_faults(call: Call, tmp_path: Path, name: str, text: str, says: str) -> None:
    """Broken files exit with a message that names the place."""
    (tmp_path / name).write_text(text)
    done = call("sessions", "llama3", "--pool", "1GiB", "--workload", str(tmp_path / name), "--json")
    assert done.code in (2, 3)
    assert says in json.dumps(done.error)


def test_contradictions(call: Call) -> None:
    """No lengths, half of them, or both ways at once: usage errors."""
    base = ("sessions", "llama3", "--pool", "1GiB", "--json")
    for more in (
        [],
        ["--input", "5"],
        ["--input", "5", "--output", "5", "--workload", "x"],
        ["--arrivals", "never", "--input", "5", "--output", "5"],
    ):
        assert call(*base, *more).code == 2
