"""What kvcalc reads from logs quoted in public threads: every number, what follows from it, and whether it agrees.

The data file keeps the lines that carry numbers, the thread they come from, and the expected reading.
"""

from __future__ import annotations

import json
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kvcalc.errors import UsageError
from kvcalc.explain_log import explain
from kvcalc.registry import load_registry

LOGS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data/explain_log/public_logs.json").read_text(encoding="utf-8")
)
REGISTRY = load_registry()


def read(entry: dict[str, Any]) -> dict[str, Any]:
    """The library's answer to one entry of the data file."""
    model = REGISTRY.model(entry["model"]) if "model" in entry else None
    return explain("\n".join(entry["log"]), model=model, gpu=entry.get("gpu"))


def test_enough_public_logs() -> None:
    """At least 25 logs of four engines, each with its thread."""
    assert len(LOGS) >= 25
    assert all(entry["url"].startswith("https://github.com/") for entry in LOGS)
    assert {entry["expect"]["engine"] for entry in LOGS} == {"vllm", "sglang", "llama.cpp", "tensorrt-llm"}


@pytest.mark.parametrize("entry", LOGS, ids=[entry["id"] for entry in LOGS])
def test_a_quoted_log(entry: dict[str, Any]) -> None:
    """Engine, outcome, every number, what follows, the verdict with a model, and what to change."""
    answer, expect = read(entry), entry["expect"]
    facts: dict[str, list[Any]] = {}
    for fact in answer["facts"]:
        facts.setdefault(fact["name"], []).append(fact["value"])
    facts.pop("version", None)
    assert answer["engine"] == {"name": expect["engine"], "version": expect.get("version")}
    assert answer["status"] == expect["status"]
    assert [refusal["reason"] for refusal in answer["refusals"]] == expect.get("refusals", [])
    assert {name: values if len(values) > 1 else values[0] for name, values in facts.items()} == expect["facts"]
    assert {row["name"]: round(row["value"], 4) for row in answer["derived"]} == expect.get("derived", {})
    assert [row["change"] for row in answer["advice"]] == expect.get("advice", [])
    rows = {row["name"]: row["why"] or row["verdict"] for row in answer["comparison"]}
    assert rows == expect.get("comparison", {})


def test_a_line_has_its_number_its_text_and_its_meaning() -> None:
    """Every fact names the line it stands in and says what it means."""
    text = "\n\nAvailable KV cache memory: 6.51 GiB\nGPU KV cache size: 42,656 tokens"
    facts = {fact["name"]: fact for fact in explain(text)["facts"]}
    assert facts["kv_cache_tokens"]["line"] == 4
    assert facts["kv_cache_tokens"]["text"] == "GPU KV cache size: 42,656 tokens"
    assert facts["pool_bytes"]["meaning"] == "memory one GPU gives the KV cache"


def test_the_tokens_line_is_explained_by_version() -> None:
    """Up to 0.19 the tokens line undercounts several groups; the text follows the version, or the two numbers."""
    lines = ["GPU KV cache size: 290,864 tokens", "Maximum concurrency for 32,768 tokens per request: 33.04x"]
    for head in (["V1 LLM engine (v0.19.0)"], []):
        facts = {fact["name"]: fact for fact in explain("\n".join([*head, *lines]))["facts"]}
        assert "undercounts" in facts["kv_cache_tokens"]["meaning"]
    facts = {fact["name"]: fact for fact in explain("\n".join(["V1 LLM engine (v0.33.0)", *lines]))["facts"]}
    assert "not a count of slots" in facts["kv_cache_tokens"]["meaning"]


def test_what_the_log_leaves_open_is_named() -> None:
    """Half the bytes per token: tensor parallel or an 8-bit cache; stated as a flag it agrees."""
    started = next(entry for entry in LOGS if entry["id"] == "qwen3-30b-fp8-started")
    stated = {**started, "log": ["vllm serve q --kv-cache-dtype fp8", *started["log"]]}
    assert {row["verdict"] for row in read(started)["comparison"]} == {"differs"}
    assert {row["verdict"] for row in read(stated)["comparison"]} == {"agrees"}


def test_an_engine_that_refuses_the_model_still_reads_the_log() -> None:
    """The refusal is a warning, the facts stay."""
    text = "V1 LLM engine (v0.33.0)\n--tensor-parallel-size 7\nAvailable KV cache memory: 6.51 GiB"
    answer = explain(text, model=REGISTRY.model("qwen3-14b"))
    assert answer["comparison"] == []
    assert answer["warnings"][0].startswith("not recomputed: ")
    assert answer["facts"]


@pytest.mark.parametrize("text", ["", "\n\n", "hello", "GPU KV cache usage: 3.5%", "\x00" * 100, "{" * 10_000])
def test_nothing_recognised(text: str) -> None:
    """What is no engine's log is refused in one line."""
    with pytest.raises(UsageError, match="nothing recognised"):
        explain(text)


def test_colours_and_windows_line_ends() -> None:
    """Terminal colours and carriage returns do not hide a number."""
    text = (
        "\x1b[32mINFO\x1b[0m Available KV cache memory: 6.51 GiB\r\nGPU KV cache size: \x1b[1m42,656\x1b[0m tokens\r\n"
    )
    assert {fact["name"] for fact in explain(text)["facts"]} == {"pool_bytes", "kv_cache_tokens"}


def test_broken_numbers_never_crash() -> None:
    """500 logs with digits changed, doubled or zeroed: an answer or one UsageError, never another exception."""
    rng = random.Random(5)
    for _ in range(500):
        entry = rng.choice(LOGS)
        text = re.sub(
            r"[0-9]+",
            lambda match: rng.choice((match.group(), match.group(), "0", "1", match.group() * 3, "")),
            "\n".join(entry["log"]),
        )
        model = REGISTRY.model(entry["model"]) if "model" in entry and rng.random() < 0.3 else None
        with suppress(UsageError):  # a log without any number left
            assert explain(text, model=model, gpu=entry.get("gpu"))["engine"]["name"]


def test_graph_memory_is_no_weights() -> None:
    """SGLang prints `mem usage` for the weights and for the captured graphs (sgl-project/sglang issue 8538)."""
    text = (
        "Load weight end. type=Llama4ForConditionalGeneration, dtype=torch.bfloat16, avail mem=30.10 GB, "
        "mem usage=48.22 GB.\n"
        "[2025-07-29 18:14:43 TP0] Capture cuda graph end. Time elapsed: 19.50 s. mem usage=6.19 GB. avail mem=5.24 GB."
    )
    facts = {fact["name"]: fact["value"] for fact in explain(text)["facts"]}
    assert facts == {"weights_bytes": round(48.22 * 2**30), "cuda_graph_bytes": round(6.19 * 2**30)}


def test_weights_and_the_rest_in_one_figure() -> None:
    """vLLM since 0.26 prints weights and non-torch memory together."""
    text = (
        "Free memory on device (78.84/79.25 GiB) on startup. Desired GPU memory utilization is (0.92, 72.91 GiB). "
        "Actual usage is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation, and 0.23 "
        "GiB for CUDAGraph memory."
    )
    facts = {fact["name"]: fact["value"] for fact in explain(text)["facts"]}
    assert (facts["consumed_bytes"], facts["activation_bytes"]) == (round(15.26 * 2**30), round(1.44 * 2**30))


def test_a_cache_type_that_is_not_known_is_said() -> None:
    """A type that kvcalc does not know is not silently read as the model's own."""
    text = "--kv-cache-dtype turbo3\nKV Cache is allocated. #tokens: 1000, K size: 0.06 GB, V size: 0.06 GB"
    answer = explain(text, model=REGISTRY.model("llama-3.1-8b"))
    assert any("turbo3" in note for note in answer["assumptions"])
