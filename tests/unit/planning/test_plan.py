"""`plan`: sets of GPUs that hold a load; what they cost; that the first one is the best shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calling import Call
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcalc.answers.common import Ask
from kvcalc.answers.plan import Wanted, plan
from kvcalc.errors import UsageError
from kvcalc.planning.cost import cost_of, read_prices
from kvcalc.planning.workload import inline
from kvcalc.registry import load_registry
from kvcalc.targets import Target

REGISTRY = load_registry()
LENGTHS = ("--input", "p50=900,p95=3000,max=16k", "--output", "p50=150,p95=800,max=2k")


def dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """No more GPUs or cost, no fewer sessions, and better in one of them."""
    if (one["cost_micro_usd_per_hour"] is None) != (other["cost_micro_usd_per_hour"] is None):
        return False
    first, second = (
        (sum(row["cost_micro_usd_per_hour"] or [0]), row["gpus"], -row["sessions"]) for row in (one, other)
    )
    if one["cost_micro_usd_per_hour"] is None and one["gpu"] != other["gpu"]:
        return False
    return all(a <= b for a, b in zip(first, second, strict=True)) and first != second


@settings(max_examples=15)
@given(
    st.sampled_from(["llama-3.1-8b", "llama-3.3-70b", "qwen3-30b-a3b"]),
    st.integers(1, 3000),
    st.lists(st.sampled_from(["h100-80gb", "h200", "b200", "l40s", "a100-80gb"]), min_size=1, max_size=4, unique=True),
    st.sampled_from([(None,), (None, "fp8")]),
    st.booleans(),
)
def test_the_cheapest_is_not_dominated(
    model: str, users: int, gpus: list[str], dtypes: tuple[str | None, ...], lengths: bool
) -> None:
    """Every row holds the users, the first is dominated by no other, and they come by cost."""
    workload = inline("p50=900,p95=3000,max=16k", "p50=150,p95=800,max=2k") if lengths else None
    target = Target(model=REGISTRY.model(model), origin="registry")
    wanted = Wanted(users=users, workload=workload, kv_dtypes=dtypes, rows=50)
    rows = plan(target, Ask(), [REGISTRY.gpu(name) for name in gpus], wanted)["results"]
    assert rows
    assert all(row["sessions"] >= users for row in rows)
    assert all(row["headroom_sessions"] == row["sessions"] - users for row in rows)
    # None of the units can be left out: one replica fewer would not hold them.
    assert all(row["sessions"] - row["sessions_per_replica"] < users for row in rows)
    assert all(
        row["gpus"] == row["replicas"] * row["layout"]["tp"] * row["layout"]["pp"] * row["layout"]["dp"] for row in rows
    )
    assert not any(dominates(row, rows[0]) for row in rows[1:])
    costs = [sum(row["cost_micro_usd_per_hour"]) for row in rows if row["cost_micro_usd_per_hour"] is not None]
    assert costs == sorted(costs)


def test_more_users_never_cost_less(call: Call) -> None:
    """The cheapest set for more users costs at least as much."""
    base = ("plan", "llama3.1-8b", "--gpu", "h100-80gb,l40s", *LENGTHS, "--json", "--users")
    costs = [call(*base, users).answer["results"][0]["cost_micro_usd_per_hour"] for users in ("50", "500", "5000")]
    assert costs == sorted(costs)


def test_prices_given_or_published(call: Call) -> None:
    """A given price replaces all published ones; without it the source and date are named."""
    base = ("plan", "llama3.1-8b", "--gpu", "h100-80gb,l40s", "--users", "40", "-c", "4k", "--json")
    given_ = call(*base, "--price", "h100-80gb=2.50").answer["results"]
    by_gpu = {row["gpu"]: row for row in given_}
    assert by_gpu["h100-80gb"]["price"]["source"] == "--price"
    assert by_gpu["h100-80gb"]["cost_micro_usd_per_hour"] == [2500000 * by_gpu["h100-80gb"]["gpus"]] * 2
    assert by_gpu["l40s"]["price"] is None
    published = {row["gpu"]: row for row in call(*base).answer["results"]}["h100-80gb"]["price"]
    assert published["source"]
    assert published["date"]


def test_costs_follow_from_the_price(call: Call) -> None:
    """Per session: the cost over the users; per million tokens: over the users' live tokens."""
    answer = call(
        "plan", "llama3.1-8b", "--gpu", "h100", "--users", "100", "-c", "1000", "--price", "3", "--json"
    ).answer
    (row,) = answer["results"]
    hour = 3 * 10**6 * row["gpus"]
    assert row["session_micro_usd_per_hour"] == [hour // 100] * 2
    assert row["million_tokens_micro_usd_per_hour"] == [hour * 10**6 // (100 * 1000)] * 2


@pytest.mark.parametrize("text", ["", "x", "-1", "h100=", "h100=2,h100=3", "1e3", "nan"])
def test_no_price(text: str) -> None:
    """Anything but USD per GPU and hour is a usage error."""
    with pytest.raises(UsageError):
        read_prices(text)


def test_unknown_price_is_none() -> None:
    """A GPU without a price has no cost, not a zero."""
    assert cost_of(REGISTRY.gpu("rtx-3090"), 4, {}) is None
    cost = cost_of(REGISTRY.gpu("h200"), 2, read_prices("h200=3.5-4.5"))
    assert cost is not None
    assert (cost.low_micro_usd, cost.high_micro_usd) == (7000000, 9000000)


def test_demand_study_example(call: Call) -> None:
    """70B, 200 users of 6,000 live tokens: 8 H100 as one replica beat three replicas of four."""
    answer = call("plan", "llama-3.3-70b", "--users", "200", "-c", "6000", "--gpu", "h100-80gb", "--json").answer
    (row,) = answer["results"]
    assert (row["gpus"], row["replicas"]) == (8, 1)


def test_longest_session_must_fit(call: Call) -> None:
    """--max-context asks for larger replicas than the users need."""
    base = ("plan", "llama-3.3-70b", "--users", "2", "-c", "2k", "--gpu", "h100-80gb", "--price", "2", "--json")
    short, long = call(*base).answer["results"][0], call(*base, "--max-context", "1m").answer["results"][0]
    assert short["gpus"] < long["gpus"]


def test_flags_start_the_engine(call: Call) -> None:
    """The flags are vLLM's own, with the asked options and the KV type."""
    answer = call(
        "plan", "llama-3.3-70b", "-e", "vllm", "--users", "300", "--gpu", "h100-80gb", "--kv-dtype", "fp8",
        "-o", "max_num_seqs=512", *LENGTHS, "--json",
    ).answer  # fmt: skip
    flags = answer["results"][0]["flags"]
    assert "--tensor-parallel-size" in flags
    assert "--kv-cache-dtype fp8" in flags
    assert "--max-num-seqs 512" in flags


def test_switches_are_written_as_the_engine_reads_them(call: Call) -> None:
    """vLLM's switches take no value: --flag or --no-flag (argparse.BooleanOptionalAction)."""
    base = ("plan", "llama-3.1-8b", "-e", "vllm", "--users", "3", "--gpu", "h100-80gb", "--json", "-o")
    said = [
        call(*base, f"{option}").answer["results"][0]["flags"] for option in ("enforce_eager=on", "enforce_eager=off")
    ]
    assert said == ["--enforce-eager", "--no-enforce-eager"]


def test_sglang_spreads_experts_over_its_tp_ranks(call: Call) -> None:
    """Experts over TP x DP need DP attention there, whose degrees divide --tp-size (issue 24453: 32 of each)."""
    answer = call(
        "plan", "qwen3-235b-a22b", "-e", "sglang", "--users", "50", "-c", "32k", "--gpu", "h100-80gb",
        "--kv-dtype", "fp8", "-o", "disable_radix_cache=on", "--json",
    ).answer  # fmt: skip
    (row,) = answer["results"]
    layout = row["layout"]
    assert layout["ep"] == layout["tp"] * layout["dp"] > layout["tp"]
    assert row["flags"] == (
        f"--tp-size {layout['ep']} --dp-size {layout['dp']} --enable-dp-attention --ep-size {layout['ep']} "
        "--kv-cache-dtype fp8_e4m3 --disable-radix-cache"
    )


def test_plan_counts_the_encoder(call: Call, tmp_path: Path) -> None:
    """Sessions of an encoder-decoder model hold the encoder's keys and values, as `sessions` counts them."""
    file = tmp_path / "model.yaml"
    file.write_text(
        "name: m\nlayers: 32\ndtype: bfloat16\nparameters: 1000000000\npattern: [[self, cross]]\nattention:\n"
        "  self: {kind: mha, heads: 20, head_dim: 64}\n  cross: {kind: cross, heads: 20, head_dim: 64}\n"
    )
    base = (str(file), "--gpu", "l4", "--input", "10", "--output", "100", "--encoder-tokens", "1500", "--json")
    (row,) = call("plan", *base, "--users", "2", "--max-gpus", "1").answer["results"]
    held = call("sessions", *base).answer["max_sessions"]
    assert abs(row["sessions_per_replica"] - held) <= max(1, held // 100)


def test_unknown_weights_say_what_to_add(call: Call) -> None:
    """Where no GPU can be judged the error has the fix of its cause."""
    done = call("plan", "whisper-large-v3", "--users", "2", "--gpu", "l4", "-c", "400", "--json")
    assert (done.code, done.error["field"]) == (2, "parameters")
    assert "parameters" in done.error["fix"]


def test_a_given_layout_contradicts_the_search(call: Call) -> None:
    """--tp and --pool are refused, not ignored."""
    base = ("plan", "llama3", "--users", "5", "--json")
    assert [call(*base, *more).code for more in (["--tp", "2"], ["--pool", "1GiB"])] == [2, 2]


def test_nothing_holds_it(call: Call) -> None:
    """Where no unit holds a session the answer has no rows and the exit code is 1."""
    done = call("plan", "deepseek-v3", "--users", "1", "--gpu", "rtx-4090", "--max-gpus", "4", "--json")
    assert (done.code, done.answer["results"]) == (1, [])


def test_refused_gpus_are_named(call: Call) -> None:
    """A GPU without a ledger is left out with the reason; all of them refused is an error."""
    base = ("plan", "llama3", "-e", "vllm", "--users", "5", "-c", "2k", "--json", "--gpu")
    answer = call(*base, "dgx-spark,h100").answer
    assert [row["gpu"] for row in answer["results"]] == ["h100-80gb"]
    assert any("dgx-spark" in text for text in answer["warnings"])
    assert call(*base, "dgx-spark").code == 2
    assert call("plan", "llama3", "--json").code == 2
