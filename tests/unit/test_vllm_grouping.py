"""How vLLM groups hand-made cache formats: packed layers, layers promoted to full ones, equal and uniform formats.

Sources: vLLM 0.33.0 v1/core/kv_cache_planning.py and v1/kv_cache_interface.py, as cited in
kvcalc/engines/vllm/{grouping,spec}.py, worked out here with small numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kvcalc.engines.vllm.grouping import Group, Layer, group_layers
from kvcalc.engines.vllm.spec import Limits, Spec, SpecKind, mergeable, uniform
from kvcalc.engines.vllm.versions import RULES
from kvcalc.errors import EngineRefusal


def spec(kind: SpecKind = "full", page: int = 1600, *, block: int = 16, **more: Any) -> Spec:
    return Spec(kind=kind, block_tokens=block, page_bytes=page, content_bytes=more.pop("content", page), **more)


def groups_of(specs: list[Spec], *, hybrid: bool = True, outer: bool = True) -> list[Group]:
    layers = [Layer(number, "b", each) for number, each in enumerate(specs)]
    return group_layers(layers, RULES["0.33"], hybrid_manager=hybrid, block_outermost=outer)


def packed(specs: list[Spec]) -> list[list[int]]:
    """Layer numbers of each group; packed groups sum their pages."""
    return [[layer.number for layer in group.layers] for group in groups_of(specs)]


FULL, WINDOW = spec(), spec("sliding", span=8)


def test_packed_layers_of_one_page_size_are_grouped_like_others() -> None:
    """Only pages that differ are packed: 5 windows and 4 full layers of one page make two padded groups."""
    made = groups_of([WINDOW] * 5 + [FULL] * 4)
    assert [(len(group.layers), group.mixed, group.page_bytes) for group in made] == [
        (5, False, 1600),
        (4, False, 1600),
    ]
    other = groups_of([WINDOW] * 3 + [spec(page=800)])
    assert [(len(group.layers), group.mixed, group.page_bytes) for group in other] == [
        # the anchor is a page of 1,600: one window a block
        (1, True, 1600), (1, True, 1600), (1, True, 1600), (1, True, 800),
    ]  # fmt: skip


def test_packed_windows_and_states_fill_the_anchor() -> None:
    """Without latents of several pages, windows are split to fit the widest other group; states always are."""
    wide = spec(page=3600)
    assert packed([wide] + [WINDOW] * 5) == [[0], [1, 4], [2, 5], [3]]  # 3,600 // 1,600: two a block
    assert packed([wide] + [spec("sliding_mla", span=8)] * 5) == [[0], [1, 4], [2, 5], [3]]
    assert packed([wide] + [spec("chunked", span=8)] * 5) == [[0], [1, 2, 3, 4, 5]]
    states = [spec("mamba", 2000, block=0, state_blocks=(2, 1))] * 4
    a, b = spec("mla", 1000), spec("mla", 400)
    # Four latents of each size are 5,600 bytes: two states a block.
    assert packed([*[a, b] * 4, *states]) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 10], [9, 11]]
    # Windows of a model with latents of two pages are split by the latents' count alone.
    assert packed([a, b, WINDOW, WINDOW]) == [[0, 1], [2], [3]]
    # The bucket's first page decides: 1,600 // 400 holds all three windows.
    small, large = spec("sliding", 400, span=8), spec("sliding", 600, span=8)
    assert packed([FULL, small, large, large]) == [[0], [1, 2, 3]]


def test_packed_sets_that_are_not_balanced_stay_whole() -> None:
    """Three windows of one page and one of another are one group beside latents of two pages."""
    a, b = spec("mla", 1000), spec("mla", 400)
    uneven = [spec("sliding_mla", 250, span=8)] * 3 + [spec("sliding_mla", 50, span=8)]
    assert packed([a, b, *uneven]) == [[0, 1], [2, 3, 4, 5]]
    # They do not say how the others split: windows of 1,600 are one a block, as wide as the full layer.
    chunks = [spec("chunked", 250, span=8)] * 3 + [spec("chunked", 50, span=8)]
    assert packed([FULL, *chunks, *[WINDOW] * 5]) == [[0], [1, 2, 3, 4], [5], [6], [7], [8], [9]]


def test_packed_sets_split_by_the_size_that_pads_least() -> None:
    """Chunks of at least the latents' count, so that all counts are padded least; the larger one at a tie."""
    a, b, window, other = spec("mla", 400), spec("mla", 100), spec("sliding_mla", 250, span=8), WINDOW
    # Counts of 2, 4 and 6: chunks of 2 pad none.
    assert packed([a, b, a, b, *[window] * 4, *[other] * 6]) == [
        [0, 1, 2, 3], [4, 6], [5, 7], [8, 11], [9, 12], [10, 13],
    ]  # fmt: skip
    # From 4 on: 4 pads 6 by 2, 5 pads 4 by 1 and 6 by 4, 6 pads 4 by 2: the larger one at a tie.
    made = packed([*[a, b] * 4, *[other] * 6])
    assert made == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13]]
    # From 4 on, counts of 4 and 8: 4 pads nothing.
    assert packed([*[a, b] * 4, *[other] * 8]) == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 10, 12, 14], [9, 11, 13, 15]]


def test_promoted_layers_keep_span_and_chunk_apart() -> None:
    """Hybrid manager off: a window stays as a window of a full layer, a chunk as a chunk, in the full blocks."""
    body = ("h",)
    full = spec(page=3200, block=32, body=body)
    local = spec("sliding", 1600, span=8, extra_tokens=3, body=body)
    chunk = spec("chunked", 1600, span=9, body=body)
    (group,) = groups_of([full, local], hybrid=False, outer=False)
    assert (group.mixed, list(group.specs)) == (False, [full, replace(full, span=8)])
    (group,) = groups_of([full, chunk], hybrid=False, outer=False)
    assert (group.mixed, list(group.specs)) == (False, [full, replace(full, chunk=9)])
    # One of each: no common format, though one table.
    (group,) = groups_of([full, local, chunk], hybrid=False, outer=False)
    assert (group.mixed, list(group.specs)) == (True, [full, replace(full, span=8), replace(full, chunk=9)])
    with pytest.raises(EngineRefusal, match=r"one window size, not \[9, 10\]"):
        groups_of([full, chunk, replace(chunk, span=10)], hybrid=False)
    with pytest.raises(EngineRefusal, match="as one type of attention"):  # full layers in blocks of 16 and 32
        groups_of([full, spec(body=body), local], hybrid=False)
    # A padded window keeps its page unless its content outgrows it.
    (group,) = groups_of([full, replace(local, page_bytes=4000)], hybrid=False, outer=False)
    assert [each.page_bytes for each in group.specs] == [3200, 4000]
    (group,) = groups_of([full, replace(local, page_bytes=1700)], hybrid=False, outer=False)
    assert [(each.page_bytes, each.content_bytes) for each in group.specs] == [(3200, 3200), (3200, 3200)]


def test_layers_that_dcp_does_not_divide_are_promoted_apart() -> None:
    """Replicated layers have types of their own: a window among them does not join the full layers of the others."""
    apart = spec("sliding", span=8, dcp_sharded=False)
    made = groups_of([FULL, apart, WINDOW], hybrid=False, outer=False)
    kinds = {layer.number: layer.spec.kind for group in made for layer in group.layers}
    assert kinds == {0: "full", 1: "sliding", 2: "full"}


def test_which_formats_are_equal() -> None:
    """In either order: windows and chunks that full layers compute with do not count, everything else does."""
    windowed, chunked = replace(FULL, span=8), replace(FULL, chunk=8)
    for one in (windowed, chunked):
        assert mergeable([FULL, one])
        assert mergeable([one, FULL])
    assert not mergeable([FULL, replace(windowed, extra_tokens=1)])
    state = spec("mamba", 1600)
    assert not uniform([state, FULL])
    assert not uniform([FULL, state])
    assert uniform([state, replace(state, body=("x",))])
    assert mergeable([FULL, WINDOW]) is False
    assert mergeable([windowed, chunked]) is False
    assert mergeable([WINDOW, FULL]) is False
    assert not uniform([spec("chunked", span=8), spec("sliding_mla", span=8)])
    assert not uniform([spec("cross"), spec("sliding_mla")])
    assert uniform([spec("cross"), spec("cross", 300)])
    with pytest.raises(EngineRefusal, match=r"one window size, not \[8, 9\]"):
        mergeable([windowed, replace(FULL, span=9)])


def test_only_heads_are_padded() -> None:
    """A page of 480 beside one of 1,600: heads and states are padded, latents and their windows refused."""
    for kind in ("sliding", "chunked", "cross", "mamba"):
        made = groups_of([FULL, spec(kind, 480, span=8)], outer=False)
        assert [(group.page_bytes, group.mixed) for group in made] == [(1600, False), (1600, False)]
    with pytest.raises(EngineRefusal, match="pages of 480 and 1,600 bytes to one size"):
        groups_of([FULL, spec("sliding_mla", 480, span=8)], outer=False)
    with pytest.raises(EngineRefusal, match="pages of 480 and 1,600 bytes to one size"):
        groups_of([WINDOW, spec("cross"), spec("mla", 480)], outer=False)


def test_bytes_of_an_entry_are_whole() -> None:
    """64 entries of 40 bytes in blocks of 256 tokens, 4 to an entry; fewer tokens than an entry count as one."""
    entries = spec("mla", 2560, block=256, tokens_per_state=4)
    assert (entries.entry_bytes, type(entries.entry_bytes)) == (40, int)
    assert entries.with_block(128) == replace(entries, block_tokens=128, page_bytes=1280, content_bytes=1280)
    plain = spec(page=2000, content=1600)
    assert plain.with_block(8) == replace(plain, block_tokens=8, content_bytes=800)
    assert plain.with_block(20).content_bytes == 2000
    with pytest.raises(EngineRefusal, match="a page padded to 2,000 bytes cannot hold blocks of 21 tokens"):
        plain.with_block(21)
    assert plain.padded_to(1600) == spec()


def test_a_window_holds_no_more_than_there_is() -> None:
    """At its edges: span - 1, what is in flight and what drafts read again, or all tokens, and one block."""
    limits = Limits(in_flight_tokens=10, encoder_tokens=17, dcp=1, align_states=False)
    window = spec("sliding", span=8)
    # 7 + 10 = 17 tokens: two blocks from the 17th token on.
    assert [window.blocks(tokens, limits) for tokens in (1, 16, 17, 18, 1000)] == [2, 2, 3, 3, 3]
    latents = spec("sliding_mla", span=7)
    assert [latents.blocks(tokens, limits) for tokens in (16, 17, 1000)] == [2, 2, 2]
    assert [replace(latents, extra_tokens=1).blocks(tokens, limits) for tokens in (16, 17)] == [2, 3]
    chunk = spec("chunked", span=7)
    assert [chunk.blocks(tokens, limits) for tokens in (16, 17, 1000)] == [1, 2, 2]
    assert spec("cross").blocks(1, limits) == 2
    assert [latents.steady_blocks(tokens) for tokens in (7, 22, 23, 24)] == [1, 2, 1, 2 - 17 // 16]
    assert [spec("sliding", 100, block=1, span=8).steady_blocks(tokens) for tokens in (5, 8, 9)] == [5, 8, 8]
    assert [chunk.steady_blocks(tokens) for tokens in (16, 17, 21, 22)] == [1, 2, 2, 1]
