"""The core's small laws: slots of a component, ranks of a layout, labels, and the search for the last that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.capacity import Growth, growth, last_that_fits, max_context, max_sessions, nothing
from kvcalc.core.component import (
    Chunked,
    Component,
    Constant,
    Encoder,
    Law,
    Linear,
    Part,
    Remainder,
    Strided,
    Windowed,
    period_of,
    saturates_at,
)
from kvcalc.core.exactness import LABELS, SCHEMA_VERSION, weakest
from kvcalc.core.model import Check, Weights
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan

LAWS: list[tuple[Law, list[int], str, int, int]] = [
    # law, slots at 0, 1, 7, 8, 9 and 100 tokens, its words, where it saturates, its period
    (Linear(), [0, 1, 7, 8, 9, 100], "linear", 0, 1),
    (Windowed(8), [0, 1, 7, 8, 8, 8], "window 8", 8, 1),
    (Windowed(6, 2), [0, 1, 7, 8, 8, 8], "window 6 + 2 sinks", 8, 1),
    (Windowed(1024, 1000), [0, 1, 7, 8, 9, 100], "window 1,024 + 1,000 sinks", 2024, 1),
    (Chunked(8), [0, 1, 7, 8, 8, 8], "chunk 8", 8, 1),
    (Strided(4), [0, 0, 1, 2, 2, 25], "1 slot per 4 tokens", 0, 4),
    (Remainder(4), [0, 1, 3, 0, 1, 0], "open group of 4 tokens", 0, 4),
    (Constant(), [1] * 6, "constant", 0, 1),
    (Constant(3), [3] * 6, "constant", 0, 1),
    (Encoder(), [0] * 6, "encoder tokens", 0, 1),
]


@pytest.mark.parametrize(("law", "slots", "words", "saturation", "period"), LAWS)
def test_growth_laws(law: Law, slots: list[int], words: str, saturation: int, period: int) -> None:
    """Slots at a length, without an encoder when none is said; the rule's words, saturation and period."""
    assert [law.slots(tokens) for tokens in (0, 1, 7, 8, 9, 100)] == slots
    assert str(law) == words
    assert (saturates_at(law), period_of(law)) == (saturation, period)


def test_encoder_slots_are_the_encoders_tokens() -> None:
    """Whatever the decoder's length."""
    assert [Encoder().slots(tokens, 9) for tokens in (0, 1, 100)] == [9, 9, 9]
    assert Linear().slots(5, 9) == 5


def test_laws_with_equal_numbers_differ() -> None:
    """A tuple equals any tuple with the same items: the rule's name keeps laws apart."""
    same = [Chunked(8), Strided(8), Remainder(8), Constant(8)]
    assert len(set(same)) == len(same)
    assert len({Linear(), Encoder()}) == 2
    rules = {law.rule for law, *_ in LAWS}
    assert rules == {"linear", "windowed", "chunked", "strided", "remainder", "constant", "encoder"}


@pytest.mark.parametrize(
    ("part", "tp", "units", "divides"),
    [
        (Part(8, 4, "heads"), 4, [2, 2, 2, 2], True),
        (Part(8, 4, "heads"), 3, [3, 3, 2], False),
        (Part(2, 4, "heads"), 4, [1, 1, 1, 1], True),
        (Part(3, 4, "heads"), 4, [1, 1, 1, 1], False),
        (Part(8, 4, "channels"), 3, [3, 3, 2], False),
        (Part(2, 4, "channels"), 4, [1, 1, 0, 0], False),
        (Part(8, 4, "channels"), 2, [4, 4], True),
        (Part(5, 4, "replicated"), 2, [5, 5], True),
    ],
)
def test_shares_of_a_part(part: Part, tp: int, units: list[int], divides: bool) -> None:
    """Heads are copied once ranks outnumber them, channels never, latents are whole everywhere."""
    assert [part.units_on_rank(rank, tp) for rank in range(tp)] == units
    assert part.divides(tp) == divides


def test_elements_of_a_slot() -> None:
    """All parts beside each other: 2 x 3 + 4 x 5."""
    component = Component("x", "conv", Constant(), (Part(2, 3, "heads"), Part(4, 5, "channels")))
    assert component.elements_per_slot == 26


def test_global_ranks() -> None:
    """TP innermost, then PP, then DP: tp 2, pp 3, dp 2."""
    layout = Layout(tp=2, pp=3, dp=2)
    assert layout.ranks == 12
    found = [layout.rank(dp, pp, tp) for dp in range(2) for pp in range(3) for tp in range(2)]
    assert found == list(range(12))
    assert Layout() == (1, 1, 1, 1)


def test_a_plan_adds_up() -> None:
    """All ranks and the host are the total; the fullest rank is what its pool is charged."""
    one, two = RankPlan((0, 1), [], 100, 30), RankPlan((2,), [], 90)
    plan = CachePlan([one, two], RankPlan((), [], 7))
    assert (plan.total_bytes, plan.max_rank_bytes) == (297, 90)
    assert CachePlan([one, two]).total_bytes == 290
    assert CachePlan([one]).max_rank_bytes == 70
    assert CachePlan([two, one]).by_rank() == {0: 100, 1: 100, 2: 90}
    assert list(CachePlan([two, one]).by_rank()) == [0, 1, 2]
    assert (one.charged_bytes, two.charged_bytes) == (70, 90)


def test_labels_and_defaults() -> None:
    """The weakest label decides; of nothing it is exact. Files say sessions and rounding only where they differ."""
    assert LABELS == ("exact", "measured", "upper_bound", "estimate")
    assert weakest() == "exact"
    for index, label in enumerate(LABELS):
        assert weakest(*LABELS[: index + 1]) == label
    assert SCHEMA_VERSION == 1
    assert Weights().rounded is False
    check = Check(context=1, bytes=1, published="x")
    assert (check.sessions, check.engine) == (1, "ideal")


@pytest.mark.parametrize("start", [1, 2, 64, 4096, 10**6])
@pytest.mark.parametrize("answer", [0, 1, 2, 3, 63, 64, 65, 1000, 4095, 4096, 4097, 70000, 999_999])
@pytest.mark.parametrize("shape", ["line", "steps", "flat", "late"])
def test_the_last_that_fits(shape: str, answer: int, start: int) -> None:
    """For lines, steps of 256, and curves with a long flat stretch or a late rise, from any start."""
    asked: list[int] = []

    def need(n: int) -> int:
        asked.append(n)
        if shape == "line":
            return 7 * n + 1000
        if shape == "steps":
            return (n > answer) * 10**6 + n // 256 * 100
        if shape == "flat":
            return 5 if n <= answer else 10**9 + n
        return n if n <= answer else n**3 + 10**9

    budget = 7 * answer + 1000 if shape == "line" else 10**6 - 1
    assert last_that_fits(need, budget, 10**6, start=start) == answer
    assert all(1 <= n <= 10**6 for n in asked)
    assert len(asked) <= 80  # four evaluations for each of 20 halvings
    assert asked.count(1) >= 1


def test_where_the_most_still_fits() -> None:
    """None when the largest n fits, the largest n itself when it is the last, and never beyond it."""
    asked: list[int] = []

    def need(n: int) -> int:
        asked.append(n)
        return n

    assert last_that_fits(need, 100, 100) is None
    assert last_that_fits(need, 99, 100) == 99
    assert last_that_fits(need, 1, 100) == 1
    assert last_that_fits(need, 0, 100) == 0
    assert last_that_fits(need, 5, 1) is None
    assert max(asked) == 100


def test_a_line_is_found_in_few_steps() -> None:
    """A straight line is solved by interpolation: a handful of evaluations up to 10**12, not forty."""
    asked: list[int] = []

    def need(n: int) -> int:
        asked.append(n)
        return 1000 + 12 * n

    assert last_that_fits(need, 1000 + 12 * 123_456_789_012, 10**12) == 123_456_789_012
    assert len(asked) <= 8
    asked.clear()
    assert last_that_fits(need, 1000 + 12 * 3000, 10**12) == 3000  # below where the search begins
    assert len(asked) <= 5
    assert asked[1] == 4096


def evaluated(need: Callable[[int], int], budget: int, most: int, **start: int) -> list[int]:
    """What the search asks for, in order."""
    asked: list[int] = []

    def noted(n: int) -> int:
        asked.append(n)
        return need(n)

    last_that_fits(noted, budget, most, **start)
    return asked


def test_the_steps_of_the_search() -> None:
    """1, where it begins, past where the mean rate ends, the interpolated answer, its neighbour.

    1000 + 12 n: at 4096 the mean rate is 12, so 40,000 ends near (1000 + 480,000) // 12 + 1 = 40,084.
    """

    def line(n: int) -> int:
        return 1000 + 12 * n

    assert evaluated(line, line(40_000), 10**9) == [1, 4096, 40_084, 40_000, 40_001]
    assert evaluated(line, line(3000), 10**9) == [1, 4096, 3000, 3001]
    assert evaluated(line, line(3000) + 11, 10**9) == [1, 4096, 3000, 3001]
    assert evaluated(line, line(4096), 10**9) == [1, 4096, 8192, 4096 + 1]  # at least double; the next does not fit
    assert evaluated(line, line(40_000), 20_000) == [1, 4096, 20_000]
    assert evaluated(line, line(50), 10**9, start=64) == [1, 64, 50, 51]
    assert evaluated(line, line(50), 10**9, start=1) == [1, 2, 4, 8, 16, 32, 64, 50, 51]
    assert evaluated(line, line(0), 10) == [1]
    assert evaluated(lambda n: 5, 5, 10_000) == [1, 4096, 8192, 10_000]  # flat: doubles to the end


def test_the_steps_of_a_search_that_halves() -> None:
    """Where a guess moved one end by less than half, the next one halves.

    n up to 10, a million more beyond; budget 1000. From (1, 64) the line points to 1, so 2 is tried and its neighbour
    3; 61 of 63 are left: 33. 30 of 61 are left: by the line again, 4 and 5; 28 of 30: 19; and so on.
    """

    def late(n: int) -> int:
        return n if n <= 10 else 10**6 + n

    assert evaluated(late, 1000, 10**6, start=64) == [1, 64, 2, 3, 33, 4, 5, 19, 6, 7, 13, 8, 9, 11, 10]


def test_flat_stretches() -> None:
    """A neighbour that takes exactly the budget still fits; a rate below one byte counts as one."""
    assert last_that_fits(lambda n: n // 2, 25, 10**6) == 51
    assert evaluated(lambda n: n // 10_000, 20_000, 10**9)[:3] == [1, 4096, 20_001]


def test_sessions_are_searched_from_64() -> None:
    """The first guess for sessions; contexts begin at 4096."""
    model = model_of({"kind": "gqa", "heads": 4, "groups": 2, "head_dim": 4})
    planner = started("ideal", model)
    loads: list[Load] = []

    class Noting:
        """The planner, with its loads noted."""

        def plan(self, load: Load) -> CachePlan:
            loads.append(load)
            return planner.plan(load)

    noting: Any = Noting()
    max_sessions(noting, 64_000, context_tokens=10)
    max_context(noting, 64_000)
    assert [load.sessions for load in loads[:2]] == [1, 64]
    assert loads[0] == Load(10, 1, 0)
    after = [load for load in loads if load.context_tokens != 10]
    assert after[0] in (Load(1, 1, 0), Load(4096, 1, 0))
    loads.clear()
    growth(noting_growth(noting, planner))
    assert {load.encoder_tokens for load in loads} == {0}


def noting_growth(noting: Any, planner: Any) -> Any:
    noting.period_tokens, noting.saturation_tokens = planner.period_tokens, planner.saturation_tokens
    return noting


def test_capacities_of_one_model() -> None:
    """2 layers x (K and V of 2 heads x 4) x 2 bytes = 64 bytes a token."""
    model = model_of({"kind": "gqa", "heads": 4, "groups": 2, "head_dim": 4})
    planner = started("ideal", model)
    assert max_context(planner, 6_400_063) == 100_000
    assert max_context(planner, 6_400_063, sessions=2) == 50_000
    assert max_sessions(planner, 6_400_063, context_tokens=1000) == 100
    assert max_context(started("ideal", model_of({"kind": "none"})), 0) is None
    assert growth(planner) == Growth(0, 64, 1, 0)
    with_encoder = started("ideal", model_of({"kind": "cross", "heads": 2, "head_dim": 4}))
    assert max_context(with_encoder, 640, encoder_tokens=10) is None
    assert max_context(with_encoder, 639, encoder_tokens=10) == 0
    assert max_sessions(with_encoder, 6400, context_tokens=5, encoder_tokens=10) == 10
    assert growth(with_encoder, encoder_tokens=10) == Growth(640, 0, 1, 0)
    # No encoder tokens unless some are given: nothing is stored, so nothing fits a pool below zero.
    assert growth(with_encoder) == Growth(0, 0, 1, 0)
    assert max_context(with_encoder, 0) is None
    assert max_sessions(with_encoder, 0, context_tokens=5) is None
    assert max_context(with_encoder, -1) == max_sessions(with_encoder, -1, context_tokens=5) == 0


def test_what_else_the_pool_holds() -> None:
    """Buffers beside the cache count with it; a fixed pool ends the search; refusals are shorter or fewer."""
    model = model_of({"kind": "gqa", "heads": 4, "groups": 2, "head_dim": 4})
    planner = started("ideal", model)
    assert nothing(Load(1)) == 0

    def beside(load: Load) -> int:
        return 1000 + 36 * load.context_tokens * load.sessions

    assert max_context(planner, 1_001_000, beside=beside) == 10_000  # 64 + 36 bytes a token
    assert max_sessions(planner, 1_001_000, context_tokens=10, beside=beside) == 1000
    fixed = started(
        "vllm", model_of({"kind": "gqa", "heads": 4, "groups": 2, "head_dim": 8}), num_gpu_blocks_override=11
    )
    assert max_context(fixed, 2**40) == 160
    assert max_sessions(fixed, 2**40, context_tokens=32) == 5
    few = started("llama.cpp", model_of({"kind": "mha", "heads": 2, "head_dim": 32}, architecture="llama"))
    assert max_sessions(few, 2**50, context_tokens=256) == 256  # LLAMA_MAX_SEQ


def test_growth_beyond_windows_and_strides() -> None:
    """A window of 100 of 64 bytes is fixed; one entry of 32 bytes per 3 tokens is 10 2/3, rounded up to 11.

    Ideal counts no open group: the window's 100 x 32 bytes and entries of 16 elements x 2 bytes.
    """
    windowed = started("ideal", model_of({"kind": "mqa", "heads": 2, "head_dim": 8, "window": 100}, layers=1))
    assert growth(windowed) == Growth(3200, 0, 1, 100)
    hca = {"kind": "hca", "heads": 2, "head_dim": 16, "tokens_per_slot": 3, "window": 100}
    strided = started("ideal", model_of(hca, layers=1))
    assert growth(strided) == Growth(3200, 11, 3, 100)
    assert strided.plan(Load(300)).total_bytes == 3200 + 100 * 32
