"""The GPU asked for decides an engine's defaults in every question, not only in `fit`."""

from __future__ import annotations

import pytest
from calling import Call

import kvcalc

#: vLLM 0.33 aligns Qwen3-Next's attention blocks with its states: 576 tokens where FlashInfer's Gated DeltaNet kernel
#: runs (Hopper), 544 on an A100 (planned by vLLM's own code for both capabilities).
BLOCKS = {"h100-80gb": 576, "a100-80gb": 544}


@pytest.mark.parametrize(("gpu", "tokens"), BLOCKS.items())
@pytest.mark.parametrize("command", ["size", "explain"])
def test_block_size_follows_the_card(call: Call, command: str, gpu: str, tokens: int) -> None:
    """`-e vllm --gpu NAME`: the block size of that card."""
    answer = call(command, "qwen3-next-80b", "-e", "vllm", "--gpu", gpu, "--json").answer
    assert answer["engine_report"]["block_size"] == tokens


@pytest.mark.parametrize(("gpu", "tokens"), BLOCKS.items())
def test_the_api_follows_the_card(gpu: str, tokens: int) -> None:
    """`load(...).cache(gpu=NAME)` is the same question."""
    record = kvcalc.load("qwen3-next-80b").cache("8k", engine="vllm", gpu=gpu).record()
    assert record["engine_report"]["block_size"] == tokens


@pytest.mark.parametrize("command", ["size", "explain", "variants", "offload", "transfer"])
def test_an_unknown_card_is_refused(call: Call, command: str) -> None:
    """No question answers for another card than the one asked for."""
    more = {"offload": ["--host", "1GiB"], "transfer": ["--rate", "1", "--link", "1GB/s"]}.get(command, [])
    done = call(command, "llama3", "--gpu", "nosuch", *more)
    assert done.code == 2
    assert "unknown GPU 'nosuch'" in done.err


@pytest.mark.parametrize("command", ["size", "explain", "offload", "transfer"])
def test_a_number_of_gpus_is_not_ignored(call: Call, command: str) -> None:
    """These commands divide by --tp, --pp and --dp alone: h100:8 without them is refused, with them it is the same."""
    done = call(command, "llama3", "--gpu", "h100:8", "--json")
    assert (done.code, done.error["field"]) == (2, "gpu")
    assert "--tp 8" in done.error["fix"]
    assert call(command, "llama3", "--gpu", "h100:8", "--tp", "8", "--json").code == 0
