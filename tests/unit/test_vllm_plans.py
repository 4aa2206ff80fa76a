"""vLLM's whole plan and its whole start-up report, worked out by hand; the pool's arithmetic beside them.

Sources: vLLM 0.33.0 v1/core/kv_cache_planning.py and v1/core/kv_cache_utils.py, as cited in
kvcalc/engines/vllm/{planner,pool,report,grouping,spec}.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor, beyond
from kvcalc.engines.vllm import ENGINE
from kvcalc.engines.vllm.build import stage_ranges
from kvcalc.engines.vllm.grouping import pool_bytes_per_block
from kvcalc.engines.vllm.planner import VllmPlanner
from kvcalc.engines.vllm.pool import StagePool, num_blocks, shortage
from kvcalc.engines.vllm.versions import RULES
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
MLA = {"kind": "mla", "heads": 16, "latent_dim": 512, "rope_dim": 64}
CROSS = {"kind": "cross", "heads": 8, "groups": 2, "head_dim": 64}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 64, "value_dim": 64, "conv_kernel": 4}
#: 2 heads x (64 + 64) x 2 bytes x 16 tokens
PAGE = 2 * 128 * 2 * 16
#: one batch of 64 tokens in flight
CALM: dict[str, Any] = {"max_num_batched_tokens": 64, "async_scheduling": False}


def planned(model: Model, engine: str = "vllm", **asked: Any) -> VllmPlanner:
    planner = started(engine, model, **asked)
    assert isinstance(planner, VllmPlanner)
    return planner


def mixed(layers: int = 2, **more: Any) -> Model:
    return model_of({"local": LOCAL, "full": HEADS}, pattern=["local", "full"], layers=layers, **more)


def blocks_tensor(kind: str, block: str, law: str, layers: tuple[int, ...], blocks: int, page: int) -> Tensor:
    return Tensor("kv_blocks", kind, block, law, layers, 1, blocks, (blocks, page), "int8", blocks * page)


def null_tensor(page: int) -> Tensor:
    return Tensor("null_block", "", "", "constant", (), 1, 1, (1, page), "int8", page)


def test_the_plan_of_windows_and_full_layers_on_8_ranks() -> None:
    """3 sessions of 1,000 tokens over 2 replicas of 2 stages of 2 ranks: the first replica has 2 sessions."""
    # Window: 128 - 1 + 2 batches of 64 (one per stage) = 255 tokens: 16 blocks, and one. Full: 1,000 / 16 = 63.
    # A rank has 1 KV head: 4,096 bytes a page, and one layer of each group per stage.
    page = PAGE // 2

    def rank(ranks: tuple[int, ...], sessions: int) -> RankPlan:
        tensors = [
            blocks_tensor("SlidingWindowSpec", "local", "window 128", (0, 2), 17 * sessions, page),
            blocks_tensor("FullAttentionSpec", "full", "linear", (1, 3), 63 * sessions, page),
            null_tensor(page),
        ]
        return RankPlan(ranks, tensors, (80 * sessions + 1) * page)

    planner = planned(mixed(4), layout=Layout(tp=2, pp=2, dp=2), **CALM)
    expected = [rank((0, 1), 2), rank((2, 3), 2), rank((4, 5), 1), rank((6, 7), 1)]
    assert planner.plan(Load(1000, 3)) == CachePlan(expected)
    # 4 sessions divide: one row of ranks for both replicas.
    assert [each.ranks for each in planner.plan(Load(1000, 4)).ranks] == [(0, 1, 4, 5), (2, 3, 6, 7)]
    assert (planner.period_tokens, planner.saturation_tokens, planner.exactness) == (16, 128 + 128, "exact")
    assert planner.group_blocks(1000) == [17, 63]
    assert planner.block_need(10)(1000) == 800


def test_the_report_of_windows_and_full_layers() -> None:
    """Every number of the start-up log and of a session, with a pool of 101 blocks per rank."""
    page = PAGE // 2
    load, asked = Load(1000, 3), {"layout": Layout(tp=2, pp=2), **CALM}
    got = planned(mixed(4), **asked).report(load, 101 * page)
    changes = got.pop("changes")
    assert isinstance(changes, list)

    def group(kind: str, block: str, first: int, held: int, steady: int) -> dict[str, object]:
        return {
            "kind": kind, "layers": 2, "layers_per_stage": [1, 1], "layer_indices": [first, first + 2],
            "blocks": [block], "block_size": 16, "page_bytes": page, "pages": {f"{kind}:{page}": 2},
            "padding_bytes_per_block": 0, "unused_bytes_per_block": 0,
            "blocks_per_request": held, "steady_blocks_per_request": steady,
        }  # fmt: skip

    assert got == {
        "max_model_len": 1000, "block_size": 16, "kv_cache_layout": "LBNHC", "kv_cache_dtype": "auto",
        "max_num_batched_tokens": 64, "max_in_flight_tokens": 128, "enable_prefix_caching": True,
        "pool_bytes_per_block": [page, page], "blocks_per_request": 80,
        # 63 blocks less the (1,000 - 128) // 16 = 54 before the window
        "steady_blocks_per_request": 9 + 63,
        "groups": [
            group("SlidingWindowSpec", "local", 0, 17, 9), group("FullAttentionSpec", "full", 1, 63, 63),
        ],
        "bytes_per_request": 80 * 2 * page, "growing_bytes_per_request": 63 * 2 * page,
        "reserved_bytes_per_request": 17 * 2 * page, "bytes_per_period": 2 * page, "period_tokens": 16,
        "num_gpu_blocks": 101, "allocated_bytes": [101 * page, 101 * page], "auto_max_model_len": 1000,
        "starts": True,
        # 101 / 80 requests of 1,000 tokens; whole sessions beside the null block
        "kv_cache_tokens": 1262, "max_concurrency": 101 / 80, "numbers_at_max_model_len": 1000,
        "sessions_at_context": 1, "steady_sessions": 1,
        "flags": {"--max-model-len": 1000, "--max-num-seqs": 3, "--kv-cache-memory-bytes": (3 * 80 + 1) * page},
    }  # fmt: skip


def test_the_report_of_a_pool_that_is_too_small() -> None:
    """A block short: 79 blocks hold 17 of the window and 62 of 16 tokens, so 992 tokens; vLLM names both."""
    page = PAGE // 2
    planner = planned(mixed(4), layout=Layout(tp=2, pp=2), max_model_len=1000, **CALM)
    got = planner.report(Load(100), 80 * page)
    assert got["refusal"] == {
        "message": "one request of 1,000 tokens needs 0.0 GiB of KV cache, available are 0.0 GiB; "
        "estimated maximum model length 992",
        "max_model_len": 1000, "needed_bytes": 80 * page, "available_bytes": 79 * page,
        "estimated_max_model_len": 992,
    }  # fmt: skip
    assert (got["starts"], got["auto_max_model_len"], got["numbers_at_max_model_len"]) == (False, 992, 992)
    assert (got["kv_cache_tokens"], got["max_concurrency"]) == (int(80 / 79 * 992), 80 / 79)
    assert planner.max_model_len == 1000
    assert planner.report(Load(100), 81 * page)["starts"] is True


SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], list[Tensor]]] = {
    # Encoder tokens are budgeted like a batch: 64 / 16 blocks.
    "cross": (
        {"attention": {"self": HEADS, "cross": CROSS}, "pattern": [["self", "cross"]], "architecture": "whisper"}, {},
        [
            blocks_tensor("FullAttentionSpec", "self", "linear", (0, 1), 7, 2 * PAGE),
            blocks_tensor("CrossAttentionSpec", "cross", "encoder", (0, 1), 4, 2 * PAGE),
        ],
    ),
    # A chunk of 32 and 64 in flight: 96 tokens.
    "chunk": (
        {"attention": {"chunk": HEADS | {"chunk": 32}, "full": HEADS}, "pattern": ["chunk", "full"]}, {},
        [
            blocks_tensor("ChunkedLocalAttentionSpec", "chunk", "chunk 32", (0,), 6, PAGE),
            blocks_tensor("FullAttentionSpec", "full", "linear", (1,), 7, PAGE),
        ],
    ),
    # One table for pages of two widths: 16 tokens of K and V of 2 heads of 64, and of 2 of 128.
    "two widths": (
        {"attention": {"a": HEADS, "b": HEADS | {"head_dim": 128}}, "pattern": ["a", "b"]}, {},
        [blocks_tensor("FullAttentionSpec", "a+b", "linear", (0, 1), 7, 3 * PAGE)],
    ),
    "heads beside a latent": (
        {"attention": {"a": HEADS, "b": MLA}, "pattern": ["a", "b"]}, {},
        [blocks_tensor("FullAttentionSpec+MLAAttentionSpec", "a+b", "linear", (0, 1), 7, PAGE + 16 * 1152)],
    ),
    "window of latents": (
        {"attention": MLA | {"window": 32}}, {},
        [blocks_tensor("SlidingWindowMLASpec", "attention", "window 32", (0, 1), 7, 2 * 16 * 1152)],
    ),
    # 272 tokens a block cover the state of 137,216 bytes; checkpoint, boundary and running state.
    "state": (
        {"attention": {"mamba": MAMBA, "full": HEADS}, "pattern": ["mamba", "full"]}, {},
        [
            blocks_tensor("MambaSpec", "mamba", "constant", (0,), 3, 272 * 512),
            blocks_tensor("FullAttentionSpec", "full", "linear", (1,), 1, 272 * 512),
        ],
    ),
    # 100 tokens over 2 decode context ranks: 50 each, 4 blocks of the one KV head left on a rank.
    "dcp": (
        {"attention": HEADS}, {"layout": Layout(tp=4, dcp=2)},
        [blocks_tensor("FullAttentionSpec", "attention", "linear", (0, 1), 4, PAGE)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("made", "asked", "tensors"), list(SHAPES.values()), ids=list(SHAPES))
def test_the_plan_of_one_session_of_100_tokens(
    made: dict[str, Any], asked: dict[str, Any], tensors: list[Tensor]
) -> None:
    """Each group's blocks, of the pages of the widest group, and the null block, on every rank."""
    planner = planned(model_of(**made), **asked, **CALM)
    page = tensors[0].shape[1]
    ranks = tuple(range(asked.get("layout", Layout()).tp))
    rows = [*tensors, null_tensor(page)]
    assert planner.plan(Load(100)) == CachePlan([RankPlan(ranks, rows, sum(each.bytes for each in rows))])


def test_a_model_without_cache_allocates_nothing() -> None:
    """No groups: no null block of nothing, no bytes; the period is one token."""
    planner = planned(model_of({"kind": "none"}))
    assert planner.plan(Load(100)) == CachePlan([RankPlan((0,), [], 0)])
    assert (planner.period_tokens, planner.saturation_tokens) == (1, 0)
    staged = planned(model_of({"a": HEADS, "b": {"kind": "none"}}, pattern=["a", "b"]), layout=Layout(pp=2))
    first, second = staged.plan(Load(100)).ranks
    assert (len(first.tensors), first.bytes) == (2, 8 * PAGE)
    # The second stage has the same block table, of no bytes, and no null block.
    assert second == RankPlan((1,), [blocks_tensor("FullAttentionSpec", "a", "linear", (0,), 7, 0)], 0)
    assert pool_bytes_per_block([], None, block_outermost=False) == 0
    assert pool_bytes_per_block([], None, block_outermost=True) == 0


def test_periods_and_saturation() -> None:
    """Growing blocks times dcp; spans with what is in flight; full layers never saturate later than at once."""
    full = planned(model_of(HEADS), layout=Layout(tp=4, dcp=2))
    assert (full.period_tokens, full.saturation_tokens) == (32, 0)
    hybrid = planned(model_of({"m": MAMBA | {"groups": 1}, "f": HEADS}, pattern=["m", "f"]), **CALM)
    assert (hybrid.period_tokens, hybrid.saturation_tokens) == (hybrid.built.block_tokens, 0)
    chunk = planned(model_of(HEADS | {"chunk": 32}), **CALM)
    assert (chunk.period_tokens, chunk.saturation_tokens) == (1, 96)
    latents = planned(model_of(MLA | {"window": 32}, mtp={"layers": 2, "block": "attention"}),
                      num_speculative_tokens=3, **CALM)  # fmt: skip
    assert latents.saturation_tokens == 32 + 2 + 64


def test_blocks_held_while_decoding() -> None:
    """The running state is one block, cross attention keeps the encoder's, dcp divides growing layers alone."""
    hybrid = planned(model_of({"m": MAMBA, "f": HEADS}, pattern=["m", "f"]), **CALM)
    assert hybrid.steady_blocks(1000) == [1, 4]  # 272 tokens a block
    cross = {"self": HEADS, "cross": CROSS}
    whisper = planned(model_of(cross, pattern=[["self", "cross"]], architecture="whisper"), **CALM)
    assert whisper.steady_blocks(1000) == [63, 4]
    assert planned(model_of(HEADS), layout=Layout(tp=4, dcp=2)).steady_blocks(1000) == [32]
    assert planned(mixed(), **CALM).steady_blocks(1000) == [9, 63]


def test_blocks_fixed_by_an_override() -> None:
    """81 blocks less the null block hold 80; two sessions on one replica need 160."""
    planner = planned(mixed(), num_gpu_blocks_override=76, max_num_seqs=5, **CALM)
    # 128 - 1 + 64 = 191 tokens: 12 blocks and one; 1,000 tokens: 63.
    assert planner.group_blocks(1000) == [13, 63]
    assert beyond(planner, Load(1000)) == "num_gpu_blocks_override leaves 75 blocks, 76 are needed"
    assert (planner.override_blocks, planner.max_num_seqs) == (76, 5)
    enough = planned(mixed(), num_gpu_blocks_override=77, layout=Layout(dp=2), **CALM)
    assert beyond(enough, Load(1000, 2)) is None
    assert beyond(enough, Load(1000, 3)) == "num_gpu_blocks_override leaves 76 blocks, 152 are needed"
    assert beyond(planned(mixed()), Load(1000)) is None


def test_up_to_0_13_layers_are_added_up_without_padding() -> None:
    """6 windows and 5 full layers: groups of 6 and 5, a pool of 6 pages a block, a check of 6 x 13 + 5 x 63."""
    model = model_of({"local": LOCAL, "full": HEADS}, pattern=[*["local", "full"] * 5, "local"], layers=11)
    planner = planned(model, "vllm@0.13", **CALM)
    assert [stage.pool_bytes for stage in planner.built.stages] == [6 * PAGE]
    assert planner.layer_bytes(range(11))(1000) == (6 * 13 + 5 * 63) * PAGE
    assert planner.layer_bytes(range(1, 2))(1000) == 63 * PAGE
    # 128 - 1 + 64 = 191 tokens: 12 blocks, and one; without the padding one block fewer is enough.
    assert planner.report(Load(1000), 66 * 6 * PAGE)["starts"] is True
    assert planner.report(Load(1000), 65 * 6 * PAGE)["starts"] is False


def test_what_counts_as_exact() -> None:
    """Attention is; states are where the architecture's numbers were compared with vLLM's."""
    compared = "recurrent layers of {} were not compared with vLLM's numbers"
    short = {"kind": "short_conv", "dim": 64, "conv_kernel": 4}
    lightning = {"kind": "lightning", "heads": 4, "head_dim": 64}
    for kind, architecture, exact in (
        (HEADS, "anything", True), (MAMBA, "mamba2", True), (MAMBA, "anything", False), (short, "lfm2", True),
        (short, "anything", False), (lightning, "minimax", False),
    ):  # fmt: skip
        planner = planned(model_of(kind, architecture=architecture))
        assert planner.exactness == ("exact" if exact else "estimate")
        assert planner.warnings == (() if exact else (compared.format(architecture),))
    unnamed = planned(model_of({"m": MAMBA, "f": HEADS}, pattern=["m", "f"]))
    assert unnamed.exactness == "estimate"
    qwen = planned(model_of({"d": DELTA, "f": HEADS}, pattern=["d", "f"], architecture="qwen3_5"))
    assert (qwen.exactness, len(qwen.warnings)) == ("exact", 1)
    assert (ENGINE.name, ENGINE.versions) == ("vllm", tuple(RULES))
    assert planned(model_of(HEADS)).assumptions == (
        "GPU of compute capability 9.0 (Hopper): it decides block sizes",
        "max_num_batched_tokens 8,192: what vllm serve sets on this GPU",
        "blocks a request may hold at most: windows reserve for every batch in flight",
    )


def test_prefix_caching_needs_attention_and_no_encoder() -> None:
    """On by default with attention, beside states too; off for states alone and beside cross attention."""
    cross = {"self": HEADS, "cross": CROSS}
    for model, caching in (
        (model_of(HEADS), True), (model_of(MLA), True), (model_of(MAMBA), False), (model_of({"kind": "none"}), False),
        (model_of({"m": MAMBA, "f": HEADS}, pattern=["m", "f"]), True),
        (model_of(cross, pattern=[["self", "cross"]], architecture="whisper"), False),
    ):  # fmt: skip
        assert planned(model).settings.prefix_caching is caching
    with pytest.raises(EngineRefusal, match="no encoder-decoder model bart"):
        planned(model_of(cross, pattern=[["self", "cross"]], architecture="bart"))


# The pool


def pool(usable: int, per_token: int = 10, free: int = 1000, block: int = 7) -> StagePool:
    return StagePool(free, block, usable, lambda tokens: per_token * tokens)


def test_the_longest_request_a_pool_holds() -> None:
    """The largest length whose need fits, at most the asked one; 0 where nothing is left or not one token fits."""
    assert [pool(usable).longest(50) for usable in (-1, 0, 9, 10, 19, 20, 499, 500, 5000)] == [
        0, 0, 0, 1, 1, 2, 49, 50, 50,
    ]  # fmt: skip
    assert [pool(usable, per_token=0).longest(50) for usable in (-1, 0, 1)] == [0, 0, 50]
    assert [pool(100).holds(tokens) for tokens in (9, 10, 11)] == [True, True, False]
    assert num_blocks([pool(0, free=1000), pool(0, free=699)]) == 99


def test_the_first_stage_that_is_short_is_named() -> None:
    """Nothing usable is short even of a request of no bytes; GiB are rounded to hundredths."""
    assert shortage([pool(100), pool(99), pool(98)], 9) is None
    found = shortage([pool(100), pool(99), pool(98)], 10)
    assert found is not None
    assert (found.max_model_len, found.needed_bytes, found.available_bytes, found.estimated_max_model_len) == (
        10, 100, 99, 9,
    )  # fmt: skip
    assert shortage([pool(0, per_token=0)], 10) is not None
    assert shortage([pool(1, per_token=0)], 10) is None
    large = shortage([pool(int(1.256 * 2**30), per_token=2**30)], 3)
    assert large is not None
    assert large.message == (
        "one request of 3 tokens needs 3.0 GiB of KV cache, available are 1.26 GiB; estimated maximum model length 1"
    )
    none = shortage([pool(int(0.256 * 2**30), per_token=2**30)], 1234)
    assert none is not None
    assert none.message == "one request of 1,234 tokens needs 1234.0 GiB of KV cache, available are 0.26 GiB"


def test_stages_have_even_shares() -> None:
    """The rest goes to the second-last stages backwards, drafts to the last."""
    assert stage_ranges(7, 3, 2) == [range(2), range(2, 5), range(5, 9)]
    assert stage_ranges(8, 3, 0) == [range(3), range(3, 6), range(6, 8)]
    assert stage_ranges(3, 3, 0) == [range(1), range(1, 2), range(2, 3)]
    with pytest.raises(EngineRefusal, match="4 pipeline stages for 3 layers"):
        stage_ranges(3, 4, 0)
