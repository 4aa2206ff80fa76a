"""Sessions at real lengths against what vLLM's own scheduler held."""

from __future__ import annotations

import experiments
import pytest

from kvcalc.answers.common import Ask, prepare
from kvcalc.planning.admission import admission
from kvcalc.planning.sessions import demand_of
from kvcalc.registry import load_registry
from kvcalc.targets import Target


@pytest.fixture(scope="module")
def cells() -> list[experiments.Cell]:
    return experiments.all_cells()


def test_cells_within_tolerance(cells: list[experiments.Cell]) -> None:
    """At least 95 % of the cells are within 10 %, three standard errors or one session."""
    assert len(cells) == 193
    assert sum(cell.inside for cell in cells) >= 0.95 * len(cells)


@pytest.mark.parametrize(("target", "most"), [("wait_0.01", 0.05), ("wait_0.05", 0.05), ("preempt", 0.08)])
def test_mean_error(cells: list[experiments.Cell], target: str, most: float) -> None:
    """The mean error of each kind of target stays what was measured."""
    part = [cell for cell in cells if cell.target.startswith(target) and cell.predicted is not None]
    assert sum(abs((cell.predicted or 0) / cell.measured - 1) for cell in part) / len(part) <= most


def test_preemption_targets_that_are_never_reached(cells: list[experiments.Cell]) -> None:
    """Every measured preemption target is one that the rule expects to be reached."""
    assert [cell.row["id"] for cell in cells if cell.predicted is None] == []


def test_page_is_current(cells: list[experiments.Cell]) -> None:
    """docs/sessions.md shows today's errors."""
    assert experiments.table(cells) in experiments.PAGE.read_text(), "run python tests/golden/experiments.py"


#: Models of the experiments as kvcalc ships them.
SHIPPED = {
    "gemma3-27b-text": "gemma-3-27b", "llama3.1-8b": "llama-3.1-8b", "qwen3-next-80b": "qwen3-next-80b-a3b",
    "nemotron-h-8b": "nemotron-h-8b", "gpt-oss-20b": "gpt-oss-20b",
}  # fmt: skip


def distinct() -> list[experiments.Row]:
    """One experiment per model and sharing."""
    found: dict[tuple[str, bool], experiments.Row] = {}
    for row in experiments.rows():
        if row["model"] in SHIPPED and "bs" not in row["id"]:
            found.setdefault((row["model"], "shared_prompt" in row), row)
    return list(found.values())


@pytest.mark.parametrize("row", distinct(), ids=lambda row: row["id"])
def test_engine_groups_hold_what_the_scheduler_held(row: experiments.Row) -> None:
    """The vllm engine's own groups of the shipped model give the law of the groups that the real scheduler had."""
    caching = "on" if row.get("prefix_caching") else "off"
    ask = Ask(
        engine="vllm",
        engine_options=(f"num_gpu_blocks_override={row['pool_blocks']}", f"enable_prefix_caching={caching}"),
    )
    target = Target(model=load_registry().model(SHIPPED[row["model"]]), origin="registry")
    load = experiments.workload(row)
    rule = admission("vllm", prepare(target, ask, gpu=None).planner, longest=load.longest)
    own, real = demand_of(load, rule.holdings), demand_of(load, experiments.holdings(row))
    assert own.law == pytest.approx(real.law)
    assert (own.shared, own.longest) == (real.shared, real.longest)
    assert rule.holdings.capacity(0) == experiments.holdings(row).capacity(0)
