"""`advise`: its numbers against arithmetic by hand, its levers against the flags they print, its sentences."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml
from calling import ROOT, Call

from kvcalc.registry import load_registry

GIB = 2**30
#: Llama-3.1-8B: 8,030,261,248 parameters of 2 bytes (its safetensors index); 32 layers x 8 heads x 2 x 128 x 2 B.
WEIGHTS, RATE = 16_060_522_496, 131_072
#: A GPU of 64 GiB of which 1 GiB is neither weights nor cache: no estimate is left in the pool.
ROOM = ("--gpu", "h100-80gb:1", "--gpu-total", "64GiB", "--overhead", "1GiB")
POOL = 63 * GIB - WEIGHTS


def levers(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {lever["change"]: lever for lever in answer["levers"]}


def test_the_setting_by_hand(call: Call) -> None:
    """Pool, need, what is short, sessions, longest context: from the parameters and 131,072 bytes a token."""
    answer = call("advise", "llama3.1-8b", *ROOM, "-c", "128k", "-n", "50", "--json").answer
    now = answer["now"]
    assert (now["weights_bytes"], now["pool_bytes"]) == (WEIGHTS, POOL)
    assert now["needed_bytes"] == 50 * 131_072 * RATE
    assert now["spare_bytes"] == POOL - 50 * 131_072 * RATE
    assert now["max_sessions"] == POOL // (131_072 * RATE) == 3
    assert now["max_context_tokens"] == POOL // (50 * RATE)
    assert (answer["bottleneck"], now["verdict"], answer["mha_ratio"]) == ("cache", "DOES NOT FIT", 0.25)
    assert type(now["spare_bytes"]) is int


def test_levers_by_hand(call: Call) -> None:
    """Narrower types, replicas, half the context, host memory: each from the same few integers."""
    answer = call("advise", "llama3.1-8b", *ROOM, "-c", "128k", "-n", "50", "--json").answer
    found = levers(answer)
    session = 131_072 * RATE
    narrow = {
        "--kv-dtype fp8": session // 2,
        "--kv-dtype int8": session // 2,
        "--kv-dtype q8_0": session * 34 // 64,
        "--kv-dtype q4_0": session * 18 // 64,
        "--kv-dtype nvfp4": session * 9 // 32,
        "-c 65536": session // 2,
    }
    for change, size in narrow.items():
        assert found[change]["held"]["max_sessions"] == POOL // size, change
        assert found[change]["gain_sessions"] == POOL // size - 3, change
    assert found["--gpu h100-80gb:2 --dp 2"]["held"]["max_sessions"] == 6
    assert found[f"-c {POOL // (50 * RATE)}"]["held"]["max_sessions"] >= 50
    offload = found["kvcalc offload -n 47"]
    assert offload["host_bytes"] == 47 * session  # 512 chunks of 256 tokens, each a multiple of 4,096 bytes
    assert offload["gain_sessions"] == 0


def test_levers_come_by_gain(call: Call) -> None:
    """The most sessions first among those that do not hold all; what is refused comes last."""
    found = call("advise", "llama3.1-8b", "-e", "vllm", "-c", "128k", "-n", "50", "--json").answer["levers"]
    taken = [lever for lever in found if lever["held"] is not None]
    assert found[: len(taken)] == taken
    short = [lever["held"]["max_sessions"] for lever in taken if not lever["held"]["fits"]]
    assert short == sorted(short, reverse=True)
    refused = {lever["change"]: lever["refused"] for lever in found[len(taken) :]}
    assert refused["--kv-dtype int8"] == "vLLM has no KV cache dtype int8"


def test_decode_context_parallel_is_found_for_a_latent(call: Call) -> None:
    """Every one of 8 ranks stores DeepSeek-V3's latent: sharing it out holds 8 times the sessions."""
    given = ("deepseek-v3", "--gpu", "h200:8", "--gpu-total", "140GiB", "--overhead", "4GiB", "-c", "128k", "-n", "50")
    answer = call("advise", *given, "--json").answer
    pool = answer["now"]["pool_bytes"]
    session = 131_072 * 61 * 576 * 2
    assert answer["now"]["max_sessions"] == pool // session
    shared = levers(answer)["--gpu h200:8 --tp 8 --dcp 8"]["held"]
    assert shared["pool_bytes"] == pool
    assert shared["max_sessions"] == pool // (session // 8)


@pytest.mark.parametrize(
    "given",
    [
        ("llama3.1-8b", "-e", "vllm", "--gpu", "h100-80gb:1", "-c", "128k", "-n", "50"),
        ("gemma3-27b", "-e", "llama.cpp", "--gpu", "rtx-4090:1", "-c", "32k", "-n", "2"),
        ("qwen3-next-80b", "--gpu", "h100-80gb:2", "-c", "32k", "-n", "300"),
        ("phi-4", "-e", "vllm", "--gpu", "h100-80gb:4", "-c", "16k", "-n", "8"),
    ],
    ids=lambda given: given[0],
)
def test_a_lever_is_what_its_flags_do(call: Call, given: tuple[str, ...]) -> None:
    """`fit` with the flags of a lever says what the lever says."""
    seen = 0
    for lever in call("advise", *given, "--json").answer["levers"]:
        if lever["held"] is None or lever["lever"] == "host offload":
            continue
        done = call("fit", *given, *lever["change"].split(), "--json")
        record = done.answer
        assert record["max_sessions"] == lever["held"]["max_sessions"], lever["change"]
        assert record["pool_bytes"] == lever["held"]["pool_bytes"], lever["change"]
        assert done.code == (0 if lever["held"]["fits"] else 1)
        seen += 1
    assert seen > 3


@pytest.mark.parametrize(
    ("given", "bottleneck", "sentence"),
    [
        # 671 B parameters of one byte on 80 GB.
        (("deepseek-v3", "--gpu", "h100-80gb:1"), "weights", "The weights bind, not the cache"),
        # 70.6 B parameters of 2 bytes on two GPUs leave less than one session of 32k (10 GiB over two).
        (
            ("llama3.1-70b", "--gpu", "h100-80gb:2", "-c", "32k", "-n", "2"),
            "weights",
            "The weights bind more than the cache",
        ),
        (("gpt2", "-c", "128k"), "model_max_context", "its own limit is 1,024 tokens, 131,072 are asked"),
        # 28 layers x 8 x 2 x 128 x 2 B x 8,192 tokens = 0.875 GiB of 79.65.
        (("qwen3-0.6b", "--gpu", "h100-80gb:1"), "none", "The cache is not the bottleneck: it is 1.1 % of each GPU"),
        (("llama3.1-8b", "--gpu", "h100-80gb:1", "-c", "128k", "-n", "50"), "cache", "The cache binds"),
        (("mamba-2.8b", "--gpu", "h100-80gb:1", "-n", "99999"), "state", "The fixed state of each session binds"),
        (("recurrentgemma-2b", "-e", "vllm"), "engine", "vLLM has no layer for rglru"),
        (("llama3.1-8b", "-e", "vllm", "--kv-dtype", "int8"), "engine", "vLLM has no KV cache dtype int8"),
    ],
)
def test_what_binds_is_said_plainly(call: Call, given: tuple[str, ...], bottleneck: str, sentence: str) -> None:
    """Each bottleneck by its name and in a sentence; advice is an answer, so the exit code is 0."""
    done = call("advise", *given, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.answer["bottleneck"] == bottleneck
    assert any(sentence in item["text"] for item in done.answer["decision"])
    assert sentence in call("advise", *given, "--format", "plain").out


def test_a_refused_question_is_answered_by_others(call: Call) -> None:
    """10 KV heads do not divide over 4 ranks of vLLM: two replicas of two are the lever, other engines are named."""
    answer = call("advise", "phi-4", "-e", "vllm", "--gpu", "h100-80gb:4", "-c", "16k", "-n", "8", "--json").answer
    assert answer["now"] is None
    assert "10 KV heads" in answer["refusal"]
    assert levers(answer)["--gpu h100-80gb:4 --tp 2 --dp 2"]["held"]["fits"]
    assert any(lever["lever"] == "engine" and lever["held"] for lever in answer["levers"])
    assert all(lever["refused"] != answer["refusal"] for lever in answer["levers"])


def test_the_attention_by_hand(call: Call) -> None:
    """Beside its MHA form (4 times as much), MLA 512+64 (32 layers x 576 x 2 B) and the hybrid."""
    answer = call("advise", "llama3.1-8b", *ROOM, "-c", "32k", "--json").answer
    rates = {row["variant"]: row["marginal_bytes_per_token"] for row in answer["variants"]}
    assert (rates["as shipped"], rates["mha"], rates["mla 512+64"]) == (RATE, 4 * RATE, 32 * 576 * 2)
    assert answer["cache_equals_weights_tokens"] == WEIGHTS // RATE
    text = next(item["text"] for item in answer["decision"] if item["topic"] == "attention")
    assert "0.25 x its own MHA form (16.00 GiB)" in text


def test_similar_models_are_those_of_half_to_twice_the_parameters(call: Call) -> None:
    """The models looked at are exactly those whose files say so; those that hold the load come first, by sessions."""
    answer = call("advise", "llama3.1-8b", "--gpu", "h100-80gb:1", "-c", "32k", "-n", "8", "--json").answer
    sizes = {}
    for path in (ROOT / "model_configs").glob("*.yaml"):
        document = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
        sizes[document["name"]] = document.get("parameters")
    own = sizes.pop("llama-3.1-8b")
    expected = {name for name, size in sizes.items() if size is not None and own <= 2 * size <= 4 * own}
    assert {row["model"] for row in answer["results"]} == expected
    held = [row for row in answer["results"] if row["holds"]]
    assert answer["results"][: len(held)] == held
    sure = [row["held"]["max_sessions"] for row in held if row["held"]["verdict"] == "FITS"]
    assert sure == sorted(sure, reverse=True)
    for row in held:
        assert row["held"]["max_sessions"] >= 8
        assert row["model_max_context"] is None or row["model_max_context"] >= 32768


def test_without_a_model_all_are_ranked(call: Call) -> None:
    """Every shipped model has a row: it holds the load, or one word says why not; CSV has all of them."""
    given = ("advise", "--gpu", "h100-80gb:4", "-c", "128k", "-n", "50")
    answer = call(*given, "--json").answer
    names = {row["name"] for row in call("models", "--json").answer["results"]}
    assert {row["model"] for row in answer["results"]} == names
    assert answer["model"] is answer["now"] is None
    for row in answer["results"]:
        held = row["held"]
        assert row["holds"] == (row["why"] == "holds")
        if held is not None:
            assert held["gpus"] == 4
            assert row["holds"] == (
                held["fits"] and (row["model_max_context"] is None or row["model_max_context"] >= 131_072)
            )
    assert call(*given, "--format", "csv").out.count("\n") == len(names) + 1
    text = answer["decision"][0]["text"]
    assert text.startswith(f"{sum(row['holds'] for row in answer['results'])} of {len(names)} shipped models hold")


def test_one_gpu_and_the_default_gpu_are_said(call: Call) -> None:
    """Nothing is assumed in silence."""
    said = call("advise", "-c", "4k", "--json").answer["assumptions"]
    assert said[:2] == [
        "GPU h100-80gb: none was asked for (--gpu)",
        "1 GPU: no number was asked for (--gpu h100-80gb:4)",
    ]


def test_replicas_where_ranks_would_repeat_heads(call: Call) -> None:
    """Gemma-3-1B has one KV head: four replicas hold more than four ranks that all store it."""
    rows = call("advise", "--gpu", "h100-80gb:4", "-c", "8k", "--json").answer["results"]
    layout = next(row["held"]["layout"] for row in rows if row["model"] == "gemma-3-1b")
    assert (layout["tp"], layout["dp"]) == (1, 4)


def test_rows_limits_what_is_shown(call: Call) -> None:
    """--rows shows fewer models to a person."""
    given = ("advise", "--gpu", "h100-80gb:4", "-c", "128k", "-n", "50", "--format", "plain")
    few, more = (call(*given, "--rows", number).out for number in ("2", "4"))
    assert len(more.splitlines()) == len(few.splitlines()) + 2
    assert "more hold it: --rows" in few


@pytest.mark.parametrize(
    "given", [("dbrx",), ("nonsense-9b",), ("llama3", "--rows", "0"), ("llama3", "--gpu", "h100:3", "--tp", "2")]
)
def test_a_wrong_question_is_usage(call: Call, given: tuple[str, ...]) -> None:
    """Unknown weights, unknown model, impossible number, contradicting layout: exit 2 and two lines."""
    done = call("advise", *given)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 2


def test_an_answer_imports_neither_parser_nor_drawing() -> None:
    """As JSON it loads no typer, rich, yaml, pydantic or numpy."""
    probe = "import sys; from kvcalc.__main__ import main; main(sys.argv[1:]); sys.stderr.write(' '.join(sys.modules))"
    load_registry()
    done = subprocess.run(
        [sys.executable, "-S", "-c", probe, "advise", "llama3", "--gpu", "h200", "-n", "9", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert set(done.stderr.split()).isdisjoint({"typer", "click", "rich", "yaml", "pydantic", "numpy"})


def test_a_variant_without_the_states_of_its_class(call: Call) -> None:
    """Inkling's alternatives have no convolutions: SGLang refuses them or sizes them, and never divides by nothing."""
    given = ("inkling-small", "-e", "sglang", "--gpu", "h100-80gb:8", "-n", "5000")
    assert call("variants", *given).code == 1
    answer = call("advise", *given, "--json").answer
    assert answer["variants"]
    assert any("tensor-level minimum" in warning for warning in answer["warnings"])
