"""Sums of holdings, holdings per engine, and the `sessions` command."""

from __future__ import annotations

import math

import pytest
from calling import Call
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.planning.holdings import BlockHoldings, Group
from kvcalc.planning.sessions import Targets, demand_of, limits_of
from kvcalc.planning.tails import Normal, Sums, moments, most_sessions, sums_of
from kvcalc.planning.workload import Requests, Workload, make_workload
from kvcalc.units import GIB

LAWS = st.dictionaries(st.integers(1, 60), st.integers(1, 9), min_size=1, max_size=6).map(
    lambda counts: {units: share / sum(counts.values()) for units, share in counts.items()}
)


def binomial_tail(sessions: int, chance: float, above: int) -> float:
    """P(X > above) of X ~ Binomial."""
    terms = range(above + 1, sessions + 1)
    return sum(math.comb(sessions, k) * chance**k * (1 - chance) ** (sessions - k) for k in terms)


@pytest.mark.parametrize("sessions", [1, 7, 40, 100])
def test_sums_are_binomial(sessions: int) -> None:
    """Sessions of 1 or 2 units: the sum is binomial, and so is its overflow."""
    sums = Sums({1: 0.7, 2: 0.3}, capacity=130)
    assert sums.overflow(sessions) == pytest.approx(binomial_tail(sessions, 0.3, 130 - sessions), abs=1e-5)


def test_poisson_sums() -> None:
    """Sessions of one unit in a Poisson number: the overflow is Poisson's tail."""
    sums = Sums({1: 1.0}, capacity=30, poisson=True)
    tail = 1 - sum(math.exp(-20) * 20**k / math.factorial(k) for k in range(31))
    assert sums.overflow(20) == pytest.approx(tail, abs=1e-5)


@given(LAWS, st.integers(60, 2000), st.sampled_from([0.01, 0.05, 0.2]))
def test_most_is_the_last_that_fits(law: dict[int, float], capacity: int, chance: float) -> None:
    """`most` sessions overflow at most with the chance, one more does not."""
    sums = Sums(law, capacity)
    most = sums.most(chance)
    assert sums.overflow(most) <= chance + 1e-6
    assert sums.overflow(most + 1) > chance - 1e-6


@given(LAWS, st.integers(200, 1000))
def test_closed_form_is_near(law: dict[int, float], capacity: int) -> None:
    """Three moments give the exact answer to 15 % or two sessions."""
    exact = Sums(law, capacity).most(0.01)
    assert abs(Normal(moments(law), capacity).most(0.01) - exact) <= max(2, 0.15 * exact)


@given(LAWS, st.integers(2, 200), st.sampled_from([0.01, 0.05, 0.2]))
def test_moments_answer_both_ways(law: dict[int, float], sessions: int, chance: float) -> None:
    """By moments, too, the most sessions overflow at most with the chance that was accepted, one more does not."""
    one = moments(law)
    sums = Normal(one, round(sessions * one.mean * 2) + 60)
    most = sums.most(chance)
    assert sums.overflow(most) <= chance + 1e-9
    assert sums.overflow(most + 1) > chance - 1e-9


@pytest.mark.parametrize("chance", [0.01, 0.3])
def test_wide_bins_do_not_blur_a_narrow_law(chance: float) -> None:
    """Many sessions of 1000 or 1001 units: the overflow is binomial in a pool with far more units than bins."""
    law = {1000: 0.5, 1001: 0.5}
    sessions, above = 400, 400_205
    sums = sums_of(law, moments(law), above)
    tail = binomial_tail(sessions, 0.5, above - 1000 * sessions)
    assert sums.overflow(sessions) == pytest.approx(tail, abs=0.03)
    assert most_sessions(law, moments(law), above, [chance])[0] in (399, 400)


LENGTHS = st.dictionaries(st.integers(1, 3000), st.just(1.0), min_size=1, max_size=4).map(
    lambda found: dict.fromkeys(found, 1 / len(found))
)
WORKLOADS = st.builds(
    make_workload,
    st.builds(Requests, st.just(1.0), LENGTHS, LENGTHS).map(lambda part: [part]),
    shared_prompt=st.sampled_from([0, 512]),
    poisson=st.booleans(),
)
GROUPS = st.lists(
    st.one_of(
        st.sampled_from([Group("full", 16), Group("full", 64), Group("full", 16, equal=3)]),
        st.sampled_from([Group("sliding", 16, 128), Group("sliding", 16, 1024)]),
        st.just(Group("state", 1)),
    ),
    min_size=1, max_size=3,
).map(tuple)  # fmt: skip


def held(workload: Workload, groups: tuple[Group, ...], blocks: int, chance: float = 0.01) -> int:
    holdings = BlockHoldings(groups, 1, override=blocks)
    limits = limits_of(demand_of(workload, holdings), workload, holdings.capacity(0), Targets(wait=chance))
    return limits.wait or 0


def longer(workload: Workload, tokens: int) -> Workload:
    """The same requests with longer prompts."""
    starts = {prompt + tokens: share for prompt, share in workload.starts.items()}
    ends = {last + tokens: share for last, share in workload.ends.items()}
    return Workload(
        starts, ends, workload.mean_prompt + tokens, workload.mean_output, workload.longest + tokens,
        workload.longest_output, workload.shared_prompt, workload.poisson,
    )  # fmt: skip


@given(WORKLOADS, st.integers(1, 64), st.integers(500, 20000))
def test_longer_prompts_never_hold_more(workload: Workload, blocks: int, pool: int) -> None:
    """A longer workload never holds more sessions (whole blocks longer, so that rounding cannot help)."""
    groups = (Group("full", 16),)
    assert held(longer(workload, 16 * blocks), groups, pool) <= held(workload, groups, pool)


@given(WORKLOADS, GROUPS, st.integers(200, 20000), st.integers(0, 5000))
def test_more_blocks_never_hold_fewer(workload: Workload, groups: tuple[Group, ...], pool: int, more: int) -> None:
    """A larger pool never holds fewer sessions; a stricter target never more."""
    few = held(workload, groups, pool)
    assert held(workload, groups, pool + more) >= few - 1  # bins move with the pool
    assert held(workload, groups, pool, 0.001) <= few


@given(WORKLOADS, GROUPS)
def test_law_is_a_law(workload: Workload, groups: tuple[Group, ...]) -> None:
    """Shares sum to one, nothing is held that was not taken, and the longest holds the most."""
    demand = demand_of(workload, BlockHoldings(groups, 1, override=10))
    assert sum(demand.law.values()) == pytest.approx(1)
    assert min(demand.law) >= 0
    assert demand.grown >= 0


def test_length_bias() -> None:
    """Outputs of 1 and 100 steps: a step belongs to the long one in 100 of 101 cases."""
    workload = make_workload([Requests(1.0, {160: 1.0}, {1: 0.5, 101: 0.5})])
    demand = demand_of(workload, BlockHoldings((Group("full", 16),), 1, override=10))
    # Steps 0 of both requests hold 10 blocks; steps 1..100 hold 161..260 slots: 16 each of 11..16 blocks, 4 of 17.
    steps = [10, 10, *(math.ceil(slots / 16) for slots in range(161, 261))]
    assert demand.moments.mean == pytest.approx(sum(steps) / len(steps))


def test_command_says_what_binds(call: Call) -> None:
    """Measured with vLLM's scheduler: 41.4 sessions at 1 % waiting, 36.2 at 1 preemption in 1,000 requests."""
    base = ("sessions", "llama3.1-8b", "-e", "vllm", "-o", "num_gpu_blocks_override=2257", "--json")
    lengths = ("--input", "p50=300,p95=1500,max=16k", "--output", "p50=80,p95=350,max=2k")
    wait = call(*base, *lengths).answer
    assert abs(wait["max_sessions"] - 41.4) <= 4.1
    assert wait["binding_limit"] == "wait"
    both = call(*base, *lengths, "--preempt", "0.001").answer
    assert abs(both["limits"]["preempt"] - 36.2) <= 3.7
    assert both["binding_limit"] == "preempt"
    capped = call(*base, *lengths, "-o", "max_num_seqs=32").answer
    assert (capped["max_sessions"], capped["binding_limit"]) == (32, "max_num_seqs")
    assert wait["worst_case_sessions"] == 1
    assert wait["mean_used_blocks"] <= wait["p99_used_blocks"] <= wait["pool_blocks"] == 2256


def test_rates_at_a_number(call: Call) -> None:
    """With -n the rates are those of that number: few wait below the limit, most above."""
    base = ("sessions", "llama3.1-8b", "-e", "vllm", "-o", "num_gpu_blocks_override=2257", "--json")
    lengths = ("--input", "p50=300,p95=1500,max=16k", "--output", "p50=80,p95=350,max=2k")
    few, many = (call(*base, *lengths, "-n", count).answer for count in ("30", "90"))
    assert few["wait_rate"] < 0.01
    assert many["wait_rate"] > 0.9
    assert few["max_sessions"] == many["max_sessions"]


def test_replicas_add(call: Call) -> None:
    """Two data parallel replicas of equal pools hold twice the sessions of one."""
    base = (
        "sessions",
        "llama3.1-8b",
        "-e",
        "vllm",
        "--pool",
        "8GiB",
        "--input",
        "500",
        "--output",
        "uniform=10-200",
        "--json",
    )
    one, two = call(*base).answer, call(*base, "--dp", "2").answer
    assert two["max_sessions"] == 2 * one["max_sessions"]


def test_shared_prompt_is_held_once(call: Call) -> None:
    """512 shared tokens are 32 blocks for all sessions together; with 32 blocks more the answer is the same."""
    lengths = ("--input", "uniform=100-700", "--output", "uniform=20-180", "--json")
    base = ("sessions", "llama3.1-8b", "-e", "vllm", "-o")
    plain = call(*base, "num_gpu_blocks_override=1715", *lengths).answer
    shared = call(*base, "num_gpu_blocks_override=1747", *lengths, "--shared-prompt", "512").answer
    assert shared["max_sessions"] == plain["max_sessions"]
    assert shared["shared_bytes"] == 32 * shared["unit_bytes"]


@pytest.mark.parametrize("engine", ["ideal", "vllm"])
def test_fixed_lengths_are_bytes(call: Call, engine: str) -> None:
    """Sessions of 1,000 + 24 tokens of Llama-3-8B hold 1,000 to 1,023 slots of 128 KiB: 8 GiB hold 64."""
    answer = call(
        "sessions", "llama3", "-e", engine, "--pool", "8GiB", "--input", "1000", "--output", "24", "--json"
    ).answer
    assert answer["mean_session_bytes"] == pytest.approx(1012 * 131072, rel=0.02)
    assert abs(answer["max_sessions"] - 8 * GIB // (1012 * 131072)) <= 1
