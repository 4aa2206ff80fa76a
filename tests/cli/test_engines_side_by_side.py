"""`--engines`: the same model under several engines."""

from __future__ import annotations

import pytest
from calling import Call


def rows(answer: dict[str, object]) -> dict[str, dict[str, int]]:
    """Engine -> its record."""
    results = answer["results"]
    assert isinstance(results, list)
    return {record["engine"]["name"]: record for record in results}


def test_gemma_keeps_full_length_under_sglang(call: Call) -> None:
    """SGLang uses windows only for listed classes: Gemma-3-27B keeps 62 layers x 16 heads x 256 x 2 B = 507,904 B/token
    (its own pools, 0.5.23), where the tensor-level minimum grows by 10 layers' worth, 81,920."""
    found = rows(call("compare", "gemma3-27b", "--engines", "ideal,sglang", "--pool", "40GiB", "--json").answer)
    assert found["sglang"]["marginal_bytes_per_token"] == 507904
    assert found["ideal"]["marginal_bytes_per_token"] == 81920


def test_mlx_expands_the_latent(call: Call) -> None:
    """MLX-LM 0.32.2 caches DeepSeek-V2's keys and values per head: 60 x 128 x (192 + 128) x 2 B a token, not 69,120."""
    found = rows(call("compare", "deepseek-v2", "--engines", "ideal,mlx", "--pool", "40GiB", "--json").answer)
    assert found["mlx-lm"]["marginal_bytes_per_token"] == 60 * 128 * 320 * 2
    assert found["ideal"]["marginal_bytes_per_token"] == 69120


def test_refusals_are_named(call: Call) -> None:
    """An engine without the architecture is named with its reason, and gets no number."""
    answer = call("compare", "falcon-7b", "--engines", "all", "--pool", "8GiB", "--json").answer
    refused = {row["engine"]: row["reason"] for row in answer["refused"]}
    assert "FalconForCausalLM" in refused["sglang"]
    assert not set(refused) & set(rows(answer))
    said = call("compare", "falcon-7b", "--engines", "all", "--pool", "8GiB").out
    assert "sglang refuses: " in said


def test_fit_by_engine(call: Call) -> None:
    """`fit --engines` is the same rows; exit 1 when none holds the load."""
    assert call("fit", "llama3", "--engines", "vllm,ktransformers", "--pool", "4GiB").code == 0
    assert call("fit", "llama3", "--engines", "vllm,sglang", "--pool", "4GiB", "-n", "100").code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engines", "vlm"], "unknown engine"),
        (["--engines", "vllm,vllm"], "twice"),
        (["--engines", "vllm", "-e", "sglang"], "contradicts"),
        (["--engines", ""], ""),
    ],
)
def test_bad_lists(call: Call, arguments: list[str], said: str) -> None:
    """An unknown or repeated engine, or -e beside it, is a usage error."""
    done = call("compare", "llama3", *arguments)
    assert done.code == 2
    assert said in done.err


def test_nobody_runs_it(call: Call) -> None:
    """When every engine refuses, the first reason is the error."""
    done = call("compare", "falcon-7b", "--engines", "sglang,lmdeploy", "--pool", "8GiB")
    assert done.code == 2
    assert "no engine of sglang, lmdeploy runs this" in done.err
