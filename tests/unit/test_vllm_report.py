"""vLLM's report in full, and its advice, for a few models small enough to work out by hand.

Figures follow vLLM 0.33.0 v1/core/kv_cache_utils.py and v1/kv_cache_interface.py. K and V of 2 heads of 64 in bf16 are
512 bytes per token, so a page of 16 tokens has 8,192.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
PAGE = 8192
EIGHT_BITS = {"flag": "--kv-cache-dtype fp8", "costs": "keys and values in 8 bits"}
ONE_BATCH = {"flag": "--no-async-scheduling", "costs": "idle GPU between steps"}
SHORT_BATCH = {"flag": "--max-num-batched-tokens 2048", "costs": "slower prefill"}


def report(model: Model, load: Load, pool: int | None = None, engine: str = "vllm", **asked: Any) -> dict[str, Any]:
    return started(engine, model, **asked).report(load, pool)


def mixed(pattern: str = "lfl", **more: Any) -> Model:
    """Layers with a window (l) and without (f)."""
    names = {"l": "local", "f": "full"}
    made: Model = model_of(
        {"local": LOCAL, "full": HEADS}, pattern=[names[c] for c in pattern], layers=len(pattern), **more
    )
    return made


def group(kind: str, layer: int, held: int, steady: int, stages: list[int], unused: int = 0) -> dict[str, Any]:
    """A group of one layer in pages of 8,192 bytes."""
    return {
        "kind": kind, "layers": 1, "layers_per_stage": stages, "layer_indices": [layer],
        "blocks": ["full" if kind == "FullAttentionSpec" else "local"], "block_size": 16, "page_bytes": PAGE,
        "pages": {f"{kind}:8192": 1}, "padding_bytes_per_block": 0, "unused_bytes_per_block": unused,
        "blocks_per_request": held, "steady_blocks_per_request": steady,
    }  # fmt: skip


def test_report_of_a_model_that_starts() -> None:
    """Two windows and one full layer: three groups of one layer, since 2 layers are more than 1.5 times 1.

    200 tokens in flight: windows hold 127 + 200 = 327 tokens, 21 blocks and one more; the full layer 63 of 1,000. While
    it decodes, a window gives back 872 // 16 = 54 of 63. In 8 bits pages are half; with one batch in flight windows
    hold 227 tokens, 15 + 1 blocks.
    """
    got = report(mixed(), Load(1000, 2), 400 * PAGE, max_num_batched_tokens=100)
    assert got == {
        "max_model_len": 1000, "block_size": 16, "kv_cache_layout": "LBNHC", "kv_cache_dtype": "auto",
        "max_num_batched_tokens": 100, "max_in_flight_tokens": 200, "enable_prefix_caching": True,
        "pool_bytes_per_block": [PAGE], "blocks_per_request": 22 + 22 + 63, "steady_blocks_per_request": 9 + 9 + 63,
        "groups": [
            group("SlidingWindowSpec", 0, 22, 9, [1]), group("SlidingWindowSpec", 2, 22, 9, [1]),
            group("FullAttentionSpec", 1, 63, 63, [1]),
        ],
        "bytes_per_request": 107 * PAGE, "growing_bytes_per_request": 63 * PAGE,
        "reserved_bytes_per_request": 44 * PAGE, "bytes_per_period": PAGE, "period_tokens": 16,
        "num_gpu_blocks": 400, "allocated_bytes": [400 * PAGE], "auto_max_model_len": 1000, "starts": True,
        "kv_cache_tokens": 3738, "max_concurrency": 400 / 107, "numbers_at_max_model_len": 1000,
        "sessions_at_context": 3, "steady_sessions": 4,  # 399 blocks of 107 and of 81
        "flags": {"--max-model-len": 1000, "--max-num-seqs": 2, "--kv-cache-memory-bytes": (2 * 107 + 1) * PAGE},
        "changes": [
            EIGHT_BITS | {"session_bytes": 107 * 4096, "saved_bytes_per_session": 107 * 4096, "sessions": 7,
                          "more_sessions": 4},  # 799 half pages of 107
            ONE_BATCH | {"session_bytes": 95 * PAGE, "saved_bytes_per_session": 12 * PAGE, "sessions": 4,
                         "more_sessions": 1},
        ],
    }  # fmt: skip


def test_report_of_a_model_that_does_not_start() -> None:
    """Two stages of 60 blocks (layers 0 and 1, then 2), three batches in flight, 2,000 tokens: 28 + 28 + 125 blocks.

    304 tokens fit the 59 blocks beside the null block: windows hold 19 + 1 blocks, the full layer 19; 305 take 62.
    At 1,000 tokens 28 + 28 + 63 = 119; in 8 bits 119 half pages are just what 60 pages less one half hold.
    """
    got = report(mixed(), Load(1000, 2), 60 * PAGE, max_num_batched_tokens=100, max_model_len=2000, layout=Layout(pp=2))
    words = "one request of 2,000 tokens needs 0.0 GiB of KV cache, available are 0.0 GiB; estimated maximum model "
    assert got == {
        "max_model_len": 2000, "block_size": 16, "kv_cache_layout": "LBNHC", "kv_cache_dtype": "auto",
        "max_num_batched_tokens": 100, "max_in_flight_tokens": 300, "enable_prefix_caching": True,
        "pool_bytes_per_block": [PAGE, PAGE], "blocks_per_request": 181, "steady_blocks_per_request": 81,
        "groups": [
            group("SlidingWindowSpec", 0, 28, 9, [1, 0], PAGE), group("SlidingWindowSpec", 2, 28, 9, [0, 1], PAGE),
            group("FullAttentionSpec", 1, 125, 63, [1, 0], PAGE),
        ],
        "bytes_per_request": 181 * 2 * PAGE, "growing_bytes_per_request": 125 * 2 * PAGE,
        "reserved_bytes_per_request": 56 * 2 * PAGE, "bytes_per_period": 2 * PAGE, "period_tokens": 16,
        "num_gpu_blocks": 60, "allocated_bytes": [60 * PAGE] * 2, "auto_max_model_len": 304, "starts": False,
        "refusal": {
            "message": f"{words}length 304", "max_model_len": 2000, "needed_bytes": 181 * PAGE,
            "available_bytes": 59 * PAGE, "estimated_max_model_len": 304,
        },
        "kv_cache_tokens": 309, "max_concurrency": 60 / 59, "numbers_at_max_model_len": 304,
        "sessions_at_context": 0, "steady_sessions": 0,
        "flags": {"--max-model-len": 1000, "--max-num-seqs": 2, "--kv-cache-memory-bytes": (2 * 119 + 1) * PAGE},
        "changes": [
            EIGHT_BITS | {"session_bytes": 119 * 4096, "saved_bytes_per_session": 119 * 4096, "sessions": 1,
                          "more_sessions": 1},
            ONE_BATCH | {"session_bytes": 107 * PAGE, "saved_bytes_per_session": 12 * PAGE, "sessions": 0,
                         "more_sessions": 0},
        ],
    }  # fmt: skip


POOL_FIELDS = {"num_gpu_blocks", "allocated_bytes", "auto_max_model_len", "starts", "sessions_at_context",
               "steady_sessions", "flags", "changes"}  # fmt: skip


def test_report_of_a_pool_too_small_for_one_token() -> None:
    """One block is the null block: no length fits, no capacity is named."""
    got = report(mixed(), Load(100), PAGE, max_num_batched_tokens=100)
    words = "one request of 100 tokens needs 0.0 GiB of KV cache, available are 0.0 GiB"
    # 100 tokens: windows hold 7 + 1 blocks, the full layer 7.
    assert got["refusal"] == {
        "message": words, "max_model_len": 100, "needed_bytes": 23 * PAGE, "available_bytes": 0,
        "estimated_max_model_len": None,
    }  # fmt: skip
    assert (got["starts"], got["auto_max_model_len"], got["sessions_at_context"]) == (False, None, 0)
    assert not {"kv_cache_tokens", "max_concurrency", "numbers_at_max_model_len"} & set(got)
    assert not (POOL_FIELDS | {"refusal"}) & set(report(mixed(), Load(100)))


def test_report_of_no_pool_and_of_the_last_block() -> None:
    """Nothing is no session, not a negative one; 428 pages are four sessions of 107 but for the null block."""
    got = report(mixed(), Load(1000), 0, max_num_batched_tokens=100)
    assert (got["num_gpu_blocks"], got["sessions_at_context"], got["steady_sessions"]) == (0, 0, 0)
    assert [(change["sessions"], change["more_sessions"]) for change in got["changes"]] == [(0, 0), (0, 0)]
    for pages, sessions in ((428, 7), (428.5, 8)):  # 855 and 856 half pages of 107 beside the null block
        got = report(mixed(), Load(1000), int(pages * PAGE), max_num_batched_tokens=100)
        assert got["changes"][0]["sessions"] == sessions, pages


def test_report_of_uneven_stages() -> None:
    """Three full layers on two stages: blocks of two pages and of one; 60 pages are 30 and 60 blocks, 30 for both."""
    model = model_of(HEADS, layers=3)
    got = report(model, Load(1000), 60 * PAGE, layout=Layout(pp=2))
    assert (got["pool_bytes_per_block"], got["num_gpu_blocks"]) == ([2 * PAGE, PAGE], 30)
    assert (got["auto_max_model_len"], got["allocated_bytes"]) == (29 * 16, [60 * PAGE, 30 * PAGE])


def test_report_with_the_blocks_of_the_override() -> None:
    """500 blocks whatever the pool; at 1,000 tokens windows are shorter than what is in flight: 64 + 64 + 63 blocks."""
    asked: dict[str, Any] = {"max_num_batched_tokens": 4096, "num_gpu_blocks_override": 500, "max_model_len": 2000}
    for pool in (None, 10 * PAGE):
        got = report(mixed(), Load(1000, 2), pool, **asked)
        assert (got["num_gpu_blocks"], got["allocated_bytes"], got["starts"]) == (500, [500 * PAGE], True)
        assert (got["blocks_per_request"], got["sessions_at_context"], got["steady_sessions"]) == (377, 2, 6)
        assert (got["kv_cache_tokens"], got["max_concurrency"]) == (2652, 500 / 377)
        eight = {"session_bytes": 191 * 4096, "saved_bytes_per_session": 191 * 4096, "sessions": 5, "more_sessions": 3}
        assert got["changes"] == [EIGHT_BITS | eight]  # fewer tokens in flight free nothing: no advice


def test_report_of_an_empty_load() -> None:
    """No tokens, no blocks: no sessions to count, unless a length is given."""
    got = report(model_of(HEADS), Load(0, 1), 100 * PAGE)
    assert (got["max_model_len"], got["sessions_at_context"], got["steady_sessions"]) == (0, None, None)
    assert "kv_cache_tokens" not in got
    got = report(model_of(HEADS), Load(0, 1), 200 * PAGE, max_model_len=32)  # blocks of two layers
    assert (got["num_gpu_blocks"], got["numbers_at_max_model_len"], got["kv_cache_tokens"]) == (100, 32, 1600)
    assert got["changes"] == []


def test_report_of_older_releases() -> None:
    """Up to 0.19 tokens are counted by blocks: 400 // 3 groups x 16; one batch in flight: 16 + 16 + 63 blocks."""
    model = mixed()
    for version, tokens in (("0.19", 2128), ("0.20", 400 * 1000 // 95)):
        got = report(model, Load(1000, 2), 400 * PAGE, f"vllm@{version}", max_num_batched_tokens=100)
        assert (got["kv_cache_tokens"], got["max_concurrency"], got["blocks_per_request"]) == (tokens, 400 / 95, 95)
        assert (got["sessions_at_context"], got["max_in_flight_tokens"]) == (4, 100)
        assert [change["flag"] for change in got["changes"]] == ["--kv-cache-dtype fp8"]
    # Decode context parallelism: each rank keeps half of the tokens, so a block counts twice. 2 layers, 1 KV head.
    heads = model_of(HEADS | {"groups": 1})
    dcp = report(heads, Load(1024), 400 * PAGE, "vllm@0.19", layout=Layout(tp=2, dcp=2))
    assert (dcp["num_gpu_blocks"], dcp["kv_cache_tokens"], dcp["period_tokens"]) == (400, 400 * 16 * 2, 32)


@pytest.mark.parametrize(
    ("version", "needed"),
    [
        ("0.13", 5 * 16 + 4 * 63),  # layer by layer
        ("0.14", (16 + 16 + 63) * 4),  # groups of up to 4 layers: 3 and 2 windows, 4 full
        ("0.28", (22 + 63) * 5),  # two batches in flight; one group of 5 windows, one of 4 full layers padded to 5
        ("0.29", (22 + 63 + 1) * 5),  # and the null block
    ],
)
def test_pool_that_each_release_asks_for(version: str, needed: int) -> None:
    """5 windows and 4 full layers, 1,000 tokens: so many pages start, one fewer does not."""
    model, asked = mixed("lllllffff"), {"max_num_batched_tokens": 100}
    for pages in (needed, needed - 1):
        got = report(model, Load(1000), pages * PAGE, f"vllm@{version}", **asked)
        assert got["starts"] == (pages == needed)
    reserved = 5 if version == "0.29" else 0
    assert got["refusal"]["needed_bytes"] == (needed - reserved) * PAGE
    assert got["refusal"]["available_bytes"] == (needed - 1 - reserved) * PAGE


def test_the_three_best_changes() -> None:
    """20,000 tokens beside a draft layer: 3 windows of 521 blocks and 1,250. 8 bits halve the 2,813 pages; half the
    tokens in flight leave windows of 265 blocks, 2,045 in all; without drafts they would be 2,292: the fourth."""
    model = mixed(mtp={"layers": 1, "block": "local"})
    got = report(model, Load(20000), 2814 * PAGE, max_num_batched_tokens=4096, num_speculative_tokens=1)
    fewer = {"session_bytes": 2045 * PAGE, "saved_bytes_per_session": 768 * PAGE, "sessions": 1, "more_sessions": 0}
    assert got["changes"] == [
        EIGHT_BITS | {"session_bytes": 2813 * 4096, "saved_bytes_per_session": 2813 * 4096, "sessions": 2,
                      "more_sessions": 1},
        SHORT_BATCH | fewer,
        ONE_BATCH | fewer,
    ]  # fmt: skip
    asked: dict[str, Any] = {"kv_cache_dtype": "fp8", "async_scheduling": False, "num_speculative_tokens": 1}
    drafts = {"flag": "without speculative decoding", "costs": "slower decode"}
    for batch, held, flags in ((2048, 137, 1), (2049, 137, 1), (2050, 138, 2)):
        # 127 + 2,048 and 2,049 tokens are 136 blocks, 2,177 are 137: only then a shorter batch frees some.
        got = report(model, Load(20000), 2814 * PAGE, max_num_batched_tokens=batch, **asked)
        freed = {"session_bytes": (2 * held + 1250) * 4096, "saved_bytes_per_session": held * 4096}
        assert len(got["changes"]) == flags
        assert freed.items() | drafts.items() <= got["changes"][0].items()


def test_advice_on_states_and_windows() -> None:
    """Blocks of 272 tokens hold a state of 137,216 bytes; caching prefixes keeps 3 of them, else 1.

    State: 8 x 64 x 128 elements and a tail of 3 x (512 + 2 x 2 x 128), all in bf16; 17 x 8,192 is the next page.
    In 8 bits blocks have 544 tokens, so 4,096 tokens take 8 of them and not 16.
    """
    model = model_of({"m": MAMBA, "a": HEADS}, pattern=["m", "a"], architecture="jamba")
    page = 272 * 512
    got = report(model, Load(4096), 100 * page, async_scheduling=False, max_num_batched_tokens=2048)
    state = got["groups"][0]
    assert state == {
        "kind": "MambaSpec", "layers": 1, "layers_per_stage": [1], "layer_indices": [0], "blocks": ["m"],
        "block_size": 272, "page_bytes": page, "pages": {f"MambaSpec:{page}": 1},
        "padding_bytes_per_block": page - 137216, "unused_bytes_per_block": 0, "blocks_per_request": 3,
        "steady_blocks_per_request": 1,
    }  # fmt: skip
    assert (got["growing_bytes_per_request"], got["reserved_bytes_per_request"]) == (16 * page, 3 * page)
    assert got["changes"] == [
        EIGHT_BITS | {"session_bytes": 11 * page, "saved_bytes_per_session": 8 * page, "sessions": 9,
                      "more_sessions": 4},
        {"flag": "--no-enable-prefix-caching", "costs": "no reuse of shared prompts", "session_bytes": 17 * page,
         "saved_bytes_per_session": 2 * page, "sessions": 5, "more_sessions": 0},
    ]  # fmt: skip
    plain = report(model, Load(4096), enable_prefix_caching=False)
    assert (plain["groups"][0]["block_size"], plain["groups"][0]["blocks_per_request"]) == (4096, 1)
    full = report(mixed(), Load(20000), 4000 * PAGE, disable_hybrid_kv_cache_manager=True, max_num_batched_tokens=4096,
                  kv_cache_dtype="float16")  # fmt: skip
    # Three full layers of 1,250 blocks; with the hybrid manager 521 + 521 + 1,250 pages.
    assert full["changes"][1] == {
        "flag": "without --disable-hybrid-kv-cache-manager", "costs": "nothing", "session_bytes": 2292 * PAGE,
        "saved_bytes_per_session": 1458 * PAGE, "sessions": 1, "more_sessions": 0,
    }  # fmt: skip


def test_layers_of_two_widths_in_one_group() -> None:
    """Heads of 64 and of 128 keep the same tokens: one table, pages of both beside each other."""
    model = model_of({"a": HEADS, "b": HEADS | {"head_dim": 128}}, pattern=["a", "b", "b"], layers=3)
    got = report(model, Load(100))
    assert got["groups"] == [{
        "kind": "UniformTypeKVCacheSpecs", "layers": 3, "layers_per_stage": [3], "layer_indices": [0, 1, 2],
        "blocks": ["a", "b"], "block_size": 16, "page_bytes": 5 * PAGE,
        "pages": {"FullAttentionSpec:8192": 1, "FullAttentionSpec:16384": 2}, "padding_bytes_per_block": 0,
        "unused_bytes_per_block": 0, "blocks_per_request": 7, "steady_blocks_per_request": 7,
    }]  # fmt: skip
    assert (got["pool_bytes_per_block"], got["bytes_per_request"]) == ([5 * PAGE], 35 * PAGE)


def test_what_a_model_is_made_of() -> None:
    """One cross-attention layer among others makes an encoder-decoder; a state without conv tail is a state."""
    crossing = {"self": HEADS, "cross": {"kind": "cross", "heads": 8, "head_dim": 64}}
    with pytest.raises(EngineRefusal, match="no encoder-decoder model bart"):
        started("vllm", model_of(crossing, pattern=["self", "cross"], architecture="bart"))
    whisper = report(model_of(crossing, pattern=["self", "cross"], architecture="whisper"), Load(100))
    assert whisper["enable_prefix_caching"] is False
    light = {"kind": "lightning", "heads": 8, "head_dim": 64}
    made: Any = started("vllm", model_of({"s": light, "a": HEADS}, pattern=["s", "a"], architecture="bailing"))
    assert (made.settings.has_states, made.exactness) == (True, "estimate")
