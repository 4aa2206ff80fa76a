"""Around the cache: offload tiers, hand-offs, links, adapters, drafts, images."""

from __future__ import annotations

import pytest
from calling import Call
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.errors import UsageError
from kvcalc.planning.links import nanoseconds, parse_rate
from kvcalc.planning.lora import lora_bytes, read_lora
from kvcalc.registry import load_registry
from kvcalc.units import GIB, MIB


def test_idle_sessions(call: Call) -> None:
    """300 idle sessions of 20,000 tokens of Qwen3-8B: 884,736,000,000 bytes, back in 0.12 s each at 24 GB/s."""
    answer = call(
        "offload", "qwen3-8b", "-n", "300", "-c", "20000", "--host", "1TiB", "--link", "24GB/s", "--json"
    ).answer
    assert answer["total_bytes"] == 884736000000
    assert answer["reload_ns"] == 122880000
    (tier,) = answer["results"]
    assert tier["sessions"] == 2**40 // 2949120000


def test_chunks_round_up(call: Call) -> None:
    """A chunk of 256 tokens is rounded up to 4,096 bytes, the last one by itself; 0 stores exact tokens."""
    base = ("offload", "smollm2-135m", "-c", "257", "--json")
    exact = call(*base, "--chunk", "0").answer["session_bytes"]
    stored = call(*base).answer["session_bytes"]
    per_token = exact // 257
    assert stored == 256 * per_token + -(-per_token // 4096) * 4096


def test_tier_may_have_another_type(call: Call) -> None:
    """--tier-dtype fp8 halves what is stored."""
    base = ("offload", "qwen3-8b", "-c", "4096", "--json")
    assert 2 * call(*base, "--tier-dtype", "fp8").answer["session_bytes"] == call(*base).answer["session_bytes"]


def test_full_tier_exits_with_a_verdict(call: Call) -> None:
    """A tier that is too small says so."""
    done = call("offload", "qwen3-8b", "-n", "300", "-c", "20000", "--host", "64GiB")
    assert done.code == 0
    assert "host: not all of them fit" in done.out


def test_replicated_latents_travel_to_each_rank(call: Call) -> None:
    """A hand-off to TP 8 sends the latent eight times."""
    answer = call("transfer", "deepseek-v3", "-c", "8k", "--tp", "8", "--json").answer
    assert answer["handoff_bytes"] == 8 * answer["copy_bytes"] == 8 * answer["rank_bytes"]


def test_slow_links_are_named(call: Call) -> None:
    """More than the link carries is a warning and a verdict."""
    done = call("transfer", "llama-3.1-70b", "-c", "32k", "--rate", "20", "--link", "100Gb/s")
    assert "the link is too slow" in done.out


@given(st.integers(0, 2**50), st.integers(1, 10**12))
def test_time_is_rounded_up(size: int, rate: int) -> None:
    """A link never carries bytes in less time than it says."""
    time = nanoseconds(size, rate)
    assert (time - 1) * rate < size * 10**9 <= time * rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [("400Gb/s", 50 * 10**9), ("1.5 GiB/s", 3 * 2**29), ("50GB/s", 50 * 10**9), ("8b/s", None), ("5", None)],
)
def test_rates(text: str, rate: int | None) -> None:
    """Bytes and bits are told apart by their letter."""
    if rate is None:
        with pytest.raises(UsageError):
            parse_rate(text, field="link")
    else:
        assert parse_rate(text, field="link") == rate


def test_adapter_bytes() -> None:
    """Llama-2-7B, rank 8: 38.125 MiB per adapter, as a server printed it."""
    model = load_registry().model("llama-2-7b")
    assert lora_bytes(model, read_lora("1xr8"), 1) == 38.125 * MIB
    assert lora_bytes(model, read_lora("4x16"), 1) == 8 * 38.125 * MIB


@pytest.mark.parametrize("text", ["", "4", "0x8", "4x0", "x8", "4x8x2"])
def test_no_adapters(text: str) -> None:
    """Anything but SLOTSxRANK is a usage error."""
    with pytest.raises(UsageError):
        read_lora(text)


def test_adapters_take_from_the_pool(call: Call) -> None:
    """--lora is a line of the ledger."""
    base = ("fit", "llama-2-7b", "-e", "vllm@0.18", "--gpu", "l40s", "--json")
    plain, with_slots = call(*base).answer, call(*base, "--lora", "4x16").answer
    assert plain["pool_bytes"] - with_slots["pool_bytes"] == 8 * 38.125 * MIB


def test_draft_layers_add_their_cache(call: Call) -> None:
    """An EAGLE layer of 8 heads x 128 adds 4,096 bytes per token to Qwen3-8B."""
    base = ("size", "qwen3-8b", "--json")
    plain, drafted = call(*base).answer, call(*base, "--draft", "1x8x128").answer
    assert drafted["marginal_bytes_per_token"] - plain["marginal_bytes_per_token"] == 4096
    assert call(*base, "--draft", "1x8").code == 2


def test_image_tokens_lengthen_prompts(call: Call) -> None:
    """Images are tokens of every prompt."""
    base = ("sessions", "qwen3-8b", "--pool", "8GiB", "--output", "100", "--json")
    images = call(*base, "--input", "200", "--image-tokens", "800").answer
    plain = call(*base, "--input", "1000").answer
    assert images["max_sessions"] == plain["max_sessions"]
    assert images["mean_session_bytes"] == plain["mean_session_bytes"] < GIB
