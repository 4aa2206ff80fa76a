"""Bytes of well-known models through the command line, from their papers and configs and the engines' own rules.

Where a figure was also printed by somebody, the page is named; otherwise the product of config numbers is written out.
"""

from __future__ import annotations

from typing import Any

import pytest
from calling import Call

TOKENS = 131072

#: target, bytes per token that grow with the context (bf16), why.
PER_TOKEN: list[tuple[str, int, str]] = [
    ("llama3", 131072, "32 layers x 2 x 8 groups x 128 x 2 B; config.json of Meta-Llama-3-8B"),
    ("llama3-70b", 327680, "80 x 2 x 8 x 128 x 2 B; huggingface.co/blog/llama31: 39.06 GiB at 128,000 tokens"),
    ("llama-3.1-405b", 516096, "126 x 2 x 8 x 128 x 2 B; config.json (the blog's 405B row assumes 16 KV heads)"),
    ("llama-2-7b", 524288, "32 x 2 x 32 x 128 x 2 B: MHA"),
    ("falcon-7b", 8192, "32 x 2 x 1 x 64 x 2 B: multi_query, so one KV head of 64"),
    ("deepseek-v2", 69120, "60 x (512 + 64) x 2 B; arXiv:2405.04434 table 1: (d_c + d_h^R) elements per layer"),
    ("deepseek-v3", 70272, "61 x (512 + 64) x 2 B; arXiv:2412.19437 section 2.1.1; vLLM and SGLang logs print it"),
    ("qwen2.5-72b", 327680, "80 x 2 x 8 x 128 x 2 B; use_sliding_window is false"),
    ("qwen3-235b-a22b", 192512, "94 x 2 x 4 x 128 x 2 B; head_dim 128 is not hidden_size / heads"),
    ("mimo-v2-flash", 23040, "9 full layers x 4 groups x (192 + 128) x 2 B: K and V of unequal width"),
    ("gpt-oss-120b", 36864, "18 full layers x 2 x 8 x 64 x 2 B; 18 sliding ones stop at 128 tokens"),
    ("gpt-oss-20b", 24576, "12 full layers x 2 x 8 x 64 x 2 B"),
    ("gemma3-27b", 81920, "10 full layers x 2 x 16 x 128 x 2 B"),
    ("mistral-7b-v0.1", 0, "every layer slides over 4096 tokens: arXiv:2310.06825 section 2"),
    ("qwen3-next-80b", 24576, "12 full layers x 2 x 2 x 256 x 2 B"),
    ("jamba-v0.1", 16384, "4 attention layers x 2 x 8 x 128 x 2 B; arXiv:2403.19887: 4 GB of KV at 256K tokens"),
    ("nemotron-3-nano", 6144, "6 attention layers x 2 x 2 x 128 x 2 B"),
    ("qwen3-30b-a3b", 98304, "48 x 2 x 4 x 128 x 2 B"),
    ("llama-4-scout", 49152, "12 full layers x 2 x 8 x 128 x 2 B; 36 chunked ones stop at 8192 tokens"),
    ("deepseek-v3.2", 85888, "61 x (512 + 64 + 128) x 2 B: the indexer's key comes on top"),
    ("kimi-k2", 70272, "61 x (512 + 64) x 2 B: DeepSeek-V3's attention"),
]

#: target, bytes of one session of 131072 tokens (bf16), why.
AT_128K: list[tuple[str, int, str]] = [
    ("gemma3-27b", 11173625856, "(10 x 131072 + 52 x 1024) x 2 x 16 x 128 x 2 B"),
    ("gpt-oss-20b", 3224371200, "(12 x 131072 + 12 x 128) x 2 x 8 x 64 x 2 B"),
    ("gpt-oss-120b", 4836556800, "(18 x 131072 + 18 x 128) x 2 x 8 x 64 x 2 B"),
    ("llama-4-scout", 7650410496, "(12 x 131072 + 36 x 8192) x 2 x 8 x 128 x 2 B"),
    ("gemma-2-27b", 25467813888, "(23 x 131072 + 23 x 4096) x 2 x 16 x 128 x 2 B"),
    ("mistral-7b-v0.1", 536870912, "32 x 4096 x 2 x 8 x 128 x 2 B"),
    ("mimo-v2-flash", 3045457920, "(9 x 4 x 131072 + 39 x 8 x 128) x (192 + 128) x 2 B"),
    ("llama3", 17179869184, "131072 x 131072 B = 16 GiB; huggingface.co/blog/llama31: 15.62 GiB at 128,000"),
    ("jamba-v0.1", 2163539968, "131072 x 16384 B + 28 x (8192 x 16 x 4 B + 8192 x 3 x 2 B)"),
    ("nemotron-3-nano", 854388736, "131072 x 6144 B + 23 x (64 x 64 x 128 x 4 B + (4096 + 2 x 8 x 128) x 3 x 2 B)"),
    ("qwen3-next-80b", 3221225472 + 77266944, "131072 x 24576 B and the states of 36 Gated DeltaNet layers"),
]

#: target, bytes of a session that do not grow, why: fp32 states, bf16 tails of kernel - 1 inputs. vLLM's block size
#: of Qwen3-Next-like models (state bytes over attention bytes, in logs) holds only with these types.
FIXED: list[tuple[str, int, str]] = [
    ("qwen3-next-80b", 77266944, "36 x (32 x 128 x 128 x 4 B + (2 x 16 x 128 + 32 x 128) x 3 x 2 B)"),
    ("jamba-v0.1", 16056320, "28 x (8192 x 16 x 4 B + 8192 x 3 x 2 B)"),
    ("nemotron-3-nano", 49082368, "23 x (64 x 64 x 128 x 4 B + (64 x 64 + 2 x 8 x 128) x 3 x 2 B)"),
    ("gpt-oss-20b", 12 * 128 * 2 * 8 * 64 * 2, "12 windows of 128"),
    ("llama3", 0, "nothing but the growing cache"),
]

#: target, cache over that of its own MHA form at 8192 tokens, why.
RATIOS: list[tuple[str, float, str]] = [
    ("llama3", 8 / 32, "groups over heads: arXiv:2305.13245"),
    ("falcon-7b", 1 / 71, "one KV head for 71"),
    ("deepseek-v2", 576 / (128 * (128 + 64 + 128)), "arXiv:2405.04434 table 1 against 128 heads of 192 and 128"),
    ("deepseek-v3", 576 / (128 * (128 + 64 + 128)), "the same shapes"),
    ("llama-2-7b", 1.0, "it is MHA"),
]


def size(call: Call, target: str, *options: str) -> dict[str, Any]:
    done = call("size", target, "--kv-dtype", "bf16", *options, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.answer["exactness"] == "exact"
    return done.answer


@pytest.mark.parametrize(("target", "expected", "why"), PER_TOKEN, ids=[row[0] for row in PER_TOKEN])
def test_bytes_per_token(call: Call, target: str, expected: int, why: str) -> None:
    """Each token far into the context costs exactly this."""
    assert size(call, target)["marginal_bytes_per_token"] == expected, why
    more = size(call, target, "-c", "1m")["total_bytes"] - size(call, target, "-c", "512k")["total_bytes"]
    assert more == 2**19 * expected, why


@pytest.mark.parametrize(("target", "expected", "why"), AT_128K, ids=[row[0] for row in AT_128K])
def test_bytes_at_128k(call: Call, target: str, expected: int, why: str) -> None:
    """One session of 131072 tokens takes exactly this."""
    answer = size(call, target, "-c", "128k")
    assert answer["total_bytes"] == answer["per_session_bytes"] == expected, why


@pytest.mark.parametrize(("target", "expected", "why"), FIXED, ids=[row[0] for row in FIXED])
def test_fixed_bytes_per_session(call: Call, target: str, expected: int, why: str) -> None:
    """What a session takes that does not grow."""
    assert size(call, target)["fixed_bytes_per_session"] == expected, why


def test_qwen3_next_state_by_array(call: Call) -> None:
    """Qwen3-Next's state is 75497472 bytes of fp32 matrices and 1769472 of bf16 tails, beside 3 GiB of KV."""
    rows = {row["name"]: row for row in size(call, "qwen3-next-80b", "-c", "128k")["components"]}
    assert (rows["recurrent_state"]["bytes"], rows["recurrent_state"]["dtype"]) == (75497472, "float32")
    assert (rows["conv_state"]["bytes"], rows["conv_state"]["dtype"], rows["conv_state"]["slots"]) == (
        1769472,
        "bfloat16",
        3,
    )
    assert rows["key"]["bytes"] + rows["value"]["bytes"] == 3221225472
    assert rows["key"]["layers"] == 12
    assert rows["recurrent_state"]["layers"] == 36


@pytest.mark.parametrize(("target", "expected", "why"), RATIOS, ids=[row[0] for row in RATIOS])
def test_ratio_to_mha(call: Call, target: str, expected: float, why: str) -> None:
    """How much smaller than the model's own MHA form."""
    done = call("compare", target, "--pool", "64GiB", "--kv-dtype", "bf16", "--json")
    assert done.answer["results"][0]["mha_ratio"] == pytest.approx(expected, rel=1e-12), why


@pytest.mark.parametrize("latent", ["deepseek-v3", "deepseek-v2"])
def test_mla_is_not_always_several_times_smaller(call: Call, latent: str) -> None:
    """Bytes per token: MLA of DeepSeek against GQA models, from less than twice to over seven times smaller."""
    mla = size(call, latent)["marginal_bytes_per_token"]
    others = {
        name: size(call, name)["marginal_bytes_per_token"] for name in ("llama3", "qwen3-30b-a3b", "gpt-oss-120b")
    }
    assert 1.8 < others["llama3"] / mla < 2
    assert 1.3 < others["qwen3-30b-a3b"] / mla < 1.5
    assert others["gpt-oss-120b"] < mla
    assert size(call, "llama-3.1-405b")["marginal_bytes_per_token"] / mla > 7


@pytest.mark.parametrize(
    ("variant", "ratio"), [("mha", 1.0), ("gqa-8", 0.25), ("mqa", 0.03125), ("mla 512+64", 0.0703125)]
)
def test_variants_of_32_heads(call: Call, variant: str, ratio: float) -> None:
    """32 heads of 128: MHA 1, GQA-8 a quarter, MQA 1/32, MLA 576/8192, from the formulas."""
    rows = {row["variant"]: row for row in call("variants", "llama3", "--pool", "64GiB", "--json").answer["results"]}
    assert rows[variant]["mha_ratio"] == ratio
    assert rows["as shipped"]["mha_ratio"] == 0.25
