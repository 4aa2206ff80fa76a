"""Sessions measured with vLLM's own scheduler against the rule: tests/data/session_experiments.json, docs/sessions.md.

Rewrite the table of the page:  python tests/golden/experiments.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from kvcalc.planning.holdings import BlockHoldings, Group
from kvcalc.planning.sessions import Targets, demand_of, limits_of
from kvcalc.planning.workload import Requests, Workload, make_workload, shape

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "session_experiments.json"
PAGE = ROOT / "docs" / "sessions.md"
Row = dict[str, Any]
#: The experiments cut lengths here.
PROMPT_MAX, OUTPUT_MAX = 16384, 2048


class Cell(NamedTuple):
    """One target of one experiment."""

    row: Row
    target: str
    measured: float
    error: float
    predicted: int | None

    @property
    def inside(self) -> bool:
        """Within 10 %, 3 standard errors or one session, whichever is most."""
        if self.predicted is None:
            return False
        return abs(self.predicted - self.measured) <= max(0.1 * self.measured, 3 * self.error, 1)


def rows() -> list[Row]:
    found: list[Row] = json.loads(DATA.read_text())["experiments"]
    return found


def lengths(kind: str, spec: Any, most: int) -> dict[int, float]:
    if kind == "fixed":
        return shape({"fixed": spec}, "length")
    if kind == "uniform":
        return shape({"uniform": spec}, "length")
    doc = dict(spec) if isinstance(spec, dict) else {"p50": spec[0], "p95": spec[1]}
    return shape({**doc, "max": most}, "length")


def workload(row: Row) -> Workload:
    spec = row["lengths"]
    parts = spec["parts"] if spec["kind"] == "mix" else [[1.0, spec]]
    classes = [
        Requests(weight, lengths(part["kind"], part["P"], PROMPT_MAX), lengths(part["kind"], part["O"], OUTPUT_MAX))
        for weight, part in parts
    ]
    shared = row.get("shared_prompt", 0) if row.get("prefix_caching") else 0
    return make_workload(classes, shared_prompt=shared, poisson=row.get("poisson", False))


def holdings(row: Row) -> BlockHoldings:
    return BlockHoldings(tuple(Group(*group) for group in row["groups"]), 1, override=row["pool_blocks"])


def cells(row: Row) -> list[Cell]:
    """Predictions for every measured target of one experiment."""
    load = workload(row)
    demand = demand_of(load, holdings(row))
    capacity = holdings(row).capacity(0) - math.floor(row.get("watermark", 0) * row["pool_blocks"])
    found = []
    limits_at = {
        level: limits_of(demand, load, capacity, Targets(wait=wait, preempt=preempt))
        for level, wait, preempt in (("0.01", 0.01, 0.01), ("0.05", 0.05, None), ("0.001", 0.05, 0.001))
        if any(name.endswith(f"_{level}") for name in row["measured"])
    }
    for name, measured in row["measured"].items():
        kind, _, level = name.partition("_")
        limits = limits_at[level]
        predicted = limits.wait if kind == "wait" else limits.preempt
        found.append(Cell(row, name, measured["S"], measured["se"], predicted))
    return found


def all_cells() -> list[Cell]:
    return [cell for row in rows() for cell in cells(row)]


TITLES = {
    "wait_0.01": "1 % of requests wait", "wait_0.05": "5 % wait",
    "preempt_0.01": "1 preemption in 100 requests", "preempt_0.001": "1 in 1,000",
}  # fmt: skip


def table(found: list[Cell]) -> str:
    lines = ["| target | cells | mean error | bias | within tolerance |", "|---|---|---|---|---|"]
    for name, title in (*TITLES.items(), ("", "all")):
        part = [cell for cell in found if cell.predicted is not None and cell.target.startswith(name)]
        errors = [(cell.predicted or 0) / cell.measured - 1 for cell in part]
        inside = sum(cell.inside for cell in part)
        size, bias = mean(map(abs, errors)), mean(errors)
        lines.append(f"| {title} | {len(part)} | {size:.1%} | {bias:+.1%} | {inside} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/sessions.md with its generated table."""
    head, mark, rest = PAGE.read_text().partition("<!-- session-errors -->\n")
    _, _, tail = rest.partition("<!-- end -->")
    return f"{head}{mark}{table(all_cells())}<!-- end -->{tail}"


if __name__ == "__main__":
    PAGE.write_text(page())
