"""`kvcalc measure` and `--measure` as a person types them: output, files, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvcalc.__main__ import main
from kvcalc.answers.schemas import read_answer
from kvcalc.engines import engine_names

ROOT = Path(__file__).parents[2]
MODEL = """
name: small
source: {note: made for this test}
parameters: 1000
layers: 2
dtype: bfloat16
attention: {kind: gqa, heads: 8, groups: 4, head_dim: 64}
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(MODEL)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    got, out, err = run(capsys, *arguments, "--json")
    assert got == code, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_compare_predicts_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Llama-3-8B and DeepSeek-V2 at 8k: 1 GiB and 60 x 576 x 2 x 8,192 bytes, predicted = measured for both."""
    code, out, _ = run(capsys, "compare", "llama3", "deepseek-v2", "-c", "8k", "--measure", "--device", "cpu")
    assert code == 0
    assert "1,073,741,824  1,073,741,824  yes" in out
    assert "566,231,040    566,231,040  yes" in out
    assert "deepseek-v2: 8 ranks hold equal tensors: allocated once" in out


def test_the_fields_of_the_answer(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """2 layers x 1,000 tokens x 3 sessions x 2 x 4 x 64 x 2 bytes; every field of the contract, against the schema."""
    found = answer(capsys, "measure", model, "-c", "1000", "-n", "3", "--device", "cpu")
    assert found["predicted_bytes"] == found["requested_bytes"] == 2 * 1000 * 3 * 1024
    assert found["equal"] is True
    assert found["allocated_bytes"] is None
    assert found["reserved_bytes"] is None
    assert found["device"]["device"] == "cpu"
    read_answer("measure", json.dumps(found), file="out")


@pytest.mark.parametrize("command", ["size", "fit", "compare"])
def test_measure_beside_other_answers(command: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--measure` adds the measurement to the record, and the record still keeps to its schema."""
    pool = [] if command == "size" else ["--pool", "1GiB"]
    found = answer(capsys, command, model, "-c", "1000", "--measure", "--device", "cpu", *pool)
    record = found["results"][0] if command == "compare" else found
    assert record["measured"]["requested_bytes"] == 2 * 1000 * 1024
    assert record["measured"]["equal"] is True
    read_answer(command, json.dumps(found), file="out")
    plain = answer(capsys, command, model, "-c", "1000", *pool)
    assert "measured" not in (plain["results"][0] if command == "compare" else plain)


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("gpu", ["h100-80gb", "rtx-4090"])
def test_the_measured_plan_is_the_records(engine: str, gpu: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What compare allocates is what its record says of each rank, whatever the GPU changes in the engine's plan."""
    targets = ["qwen3-0.6b", "gemma-3-1b"]
    found = answer(
        capsys, "compare", *targets, "-c", "300", "-e", engine, "--gpu", gpu, "--measure", "--device", "meta"
    )
    for record in found["results"]:
        by_rank = {rank["rank"]: rank["bytes"] for rank in record["ranks"]}
        for measured in record["measured"]["measured_ranks"]:
            assert [by_rank[rank] for rank in measured["ranks"]] == [measured["predicted_bytes"]] * len(
                measured["ranks"]
            )
            assert measured["equal"] is True


@pytest.mark.parametrize("shape", ["table", "plain", "csv", "markdown"])
@pytest.mark.parametrize("command", ["measure", "size", "fit", "compare"])
def test_every_format_shows_it(command: str, shape: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Predicted and measured bytes stand beside each other in every format."""
    flags = ["--measure"] if command != "measure" else ["--until-full", "--limit", "10MB"]
    pool = ["--pool", "1GiB"] if command in ("fit", "compare") else []
    code, out, err = run(capsys, command, model, "-c", "1000", "--device", "cpu", "--format", shape, *flags, *pool)
    assert code == 0, err
    if command in ("measure", "compare") or shape != "csv":
        assert "2048000" in out.replace(",", "").replace("\n", "") or "1024000" in out.replace(",", "")
    if shape in ("plain", "markdown") and command != "compare":
        assert "EQUAL: 2,048,000 B predicted and measured" in out


def test_a_difference_is_exit_1(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine whose plan lies by one byte: NOT EQUAL, and how far."""
    from kvcalc.engines.ideal import IdealPlanner

    honest = IdealPlanner.plan

    def lying(self: Any, load: Any) -> Any:
        plan = honest(self, load)
        return plan._replace(ranks=[rank._replace(bytes=rank.bytes + 1) for rank in plan.ranks])

    monkeypatch.setattr(IdealPlanner, "plan", lying)
    for arguments in (["measure", model], ["size", model, "--measure"], ["fit", model, "--pool", "1GiB", "--measure"]):
        code, out, _ = run(capsys, *arguments, "-c", "1000", "--device", "cpu")
        assert code == 1
        assert "NOT EQUAL: measured 1 B less than predicted" in out


def test_until_full(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """2,048 bytes a token under 10,000,000 bytes: 4,882 tokens, 4 sessions of 1,000."""
    found = answer(capsys, "measure", model, "-c", "1000", "--until-full", "--limit", "10000000", "--device", "cpu")[
        "until_full"
    ]
    assert (found["max_context_tokens"], found["predicted_max_context_tokens"]) == (4882, 4882)
    assert (found["max_sessions"], found["predicted_max_sessions"]) == (4, 4)


def test_saved_and_checked(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A saved measurement is equal while the prediction stays, unequal as soon as it changes."""
    kept = tmp_path / "kept.json"
    first = answer(capsys, "measure", model, "-c", "1000", "--tp", "2", "--device", "cpu", "--save", str(kept))
    assert json.loads(kept.read_text()) == first
    again = answer(capsys, "measure", str(kept), "--check")
    assert again["equal"] is True
    assert again["measured_at"] == first["measured_at"]
    Path(model).write_text(MODEL.replace("head_dim: 64", "head_dim: 65"))
    code, out, _ = run(capsys, "measure", str(kept), "--check")
    assert code == 1
    assert "NOT EQUAL: measured 16,000 B less than predicted" in out


@pytest.mark.parametrize("change", ["tensor lost", "tensor more", "byte"])
def test_a_changed_file_does_not_pass(
    change: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tensor by tensor: one missing, one too many, one byte off in the saved measurement."""
    kept = tmp_path / "kept.json"
    saved = answer(capsys, "measure", model, "-c", "100", "--device", "cpu", "--save", str(kept))
    rows = saved["measured_ranks"][0]["tensors"]
    if change == "tensor lost":
        rows.pop()
    elif change == "tensor more":
        rows.append(dict(rows[0]))
    else:
        rows[0]["requested_bytes"] += 1
    kept.write_text(json.dumps(saved))
    assert run(capsys, "measure", str(kept), "--check")[0] == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"command": "size"}', "\x00"])
def test_no_saved_measurement(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another file is a usage error in two lines."""
    path = tmp_path / "other.json"
    path.write_text(text)
    code, _, err = run(capsys, "measure", str(path), "--check")
    assert code == 2
    assert len(err.strip().splitlines()) == 2


def test_without_torch_one_line_says_what_to_install(model: str) -> None:
    """Exit 4 and one line, for measure and for --measure."""
    blocked = "import sys; sys.modules['torch'] = None; from kvcalc.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (["measure", model, "--device", "cpu"], ["size", model, "--measure"]):
        done = subprocess.run(
            [sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert done.returncode == 4
        assert done.stderr == "kvcalc: measuring needs torch: pip install 'kvcalc[measure]'\n"
        assert done.stdout == ""


def test_torch_is_not_loaded_unasked(model: str) -> None:
    """Without --measure no command touches torch."""
    code = "import sys; from kvcalc.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "size", model, "--json"], capture_output=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--device", "tpu"], 2, "unknown device"),
        (["--device", "cpu", "--limit", "1GiB"], 2, "--until-full"),
        (["--device", "cpu", "--cache", "vllm"], 2, "unknown cache"),
        (["--device", "cpu", "--cache", "transformers", "--until-full"], 2, "leave out --cache"),
        (["--device", "cpu", "--until-full"], 4, "--limit"),
        (["--device", "cpu", "-c", "1m", "-n", "100000"], 4, "is the longest context that fits"),
        (["--check", "--until-full"], 2, "measures nothing"),
        (["--device", "cpu", "--save", "/nowhere/kept.json"], 2, "cannot write /nowhere/kept.json"),
    ],
)
def test_what_cannot_be(
    arguments: list[str], code: int, said: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refusal has its exit code, what is wrong, and the way out."""
    got, _, err = run(capsys, "measure", model, *arguments)
    assert got == code
    assert said in err


def test_transformers_says_what_it_needs(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own engine, one process, a config.json, and the library: each is named when it is missing."""
    flags = ["--cache", "transformers", "--device", "cpu", "-c", "10"]
    code, _, err = run(capsys, "measure", model, *flags)
    assert (code, "is not" in err, "config.json" in err) == (4, True, True)
    code, _, err = run(capsys, "measure", model, *flags, "-e", "vllm")
    assert (code, "not the cache of vllm" in err) == (2, True)
    code, _, err = run(capsys, "measure", model, *flags, "--pp", "2")
    assert (code, "one process" in err) == (2, True)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", **shape}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = run(capsys, "measure", str(tmp_path), *flags)
    assert code == 4
    assert err == "kvcalc: --cache transformers needs transformers: pip install transformers==5.23.0\n"


def test_ctrl_c(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted: one word, exit 130."""
    from kvcalc.measure import torch_backend

    def interrupted(*args: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_backend.CpuHeld, "add", interrupted)
    code, _, err = run(capsys, "measure", model, "--device", "cpu")
    assert (code, err) == (130, "interrupted\n")
