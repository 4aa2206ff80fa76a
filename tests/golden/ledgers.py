"""Logged starts against the ledger: what each row of tests/data/ledgers.json means, and docs/ledger.md.

Rewrite the table of the page:  python tests/golden/ledgers.py
"""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model, Weights
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.vllm.defaults import default_batch, read_version
from kvcalc.kinds.heads import HeadAttention
from kvcalc.planning.amount import gib_of
from kvcalc.planning.ledger import Ledger, LedgerAsk, build_ledger
from kvcalc.planning.startlog import StartLog
from kvcalc.units import GIB

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "ledgers.json"
PAGE = ROOT / "docs" / "ledger.md"
Row = dict[str, Any]

#: Rows of the data that the closed form is known not to cover: kvcalc must refuse them.
REFUSED = ("f-dcu", "n-v4h200")


class Scored(NamedTuple):
    """One start: pools in bytes, the log's and the ledger's."""

    row: Row
    logged: int
    ledger: Ledger

    @property
    def error(self) -> int:
        return self.ledger.pool_bytes - self.logged

    @property
    def inside(self) -> bool:
        """In the band, give or take the 0.01 GiB a log rounds to."""
        slack = GIB // 100
        return self.ledger.low_pool_bytes - slack <= self.logged <= self.ledger.high_pool_bytes + slack


def rows() -> list[Row]:
    found: list[Row] = json.loads(DATA.read_text())["vllm"]
    return found


def others(engine: str) -> list[Row]:
    return [row for row in json.loads(DATA.read_text())["others"] if row["engine"] == engine]


def model(row: Row) -> Model:
    """A model with the widths of the row; its attention plays no part here."""
    facts: dict[str, Any] = {}
    for fact, key in (
        ("intermediate_size", "width"), ("num_experts", "experts"), ("num_experts_per_tok", "experts_per_token"),
        ("moe_intermediate_size", "expert_width"), ("quant_method", "quant"), ("multimodal", "multimodal"),
    ):  # fmt: skip
        if key in row:
            facts[fact] = row[key]
    narrow = row.get("quant") is not None
    return Model(
        name=row["id"],
        layers=(("attention",),) * row["layers"],
        blocks={"attention": HeadAttention(kind="gqa", heads=8, groups=8, head_dim=128)},
        dtype="bfloat16",
        architecture=row["architecture"],
        parameters=10**9,
        weights=Weights(bytes=10**9 if narrow else 2 * 10**9),
        hidden_size=row["hidden"],
        vocab_size=row["vocab"],
        facts=facts,
    )


def gpu(row: Row) -> Gpu:
    total = gib_of(row["total_gib"])
    return Gpu(
        name="logged", product=row["gpu"], vendor=row.get("vendor", "NVIDIA"), source="log", date="2026-11",
        architecture=row.get("architecture_gpu", "sm89"), total_bytes=total, total_is="driver",
        marketed_gb=max(total // 10**9, 1), nvlink=row.get("nvlink", True),
    )  # fmt: skip


def ask(row: Row) -> LedgerAsk:
    """The start as a person would describe it; weights as printed."""
    options = {"gpu_memory_utilization": row["utilization"]}
    for option, key in (
        ("max_model_len", "max_model_len"), ("max_num_seqs", "max_num_seqs"), ("enforce_eager", "eager"),
        ("max_num_batched_tokens", "max_num_batched_tokens"), ("use_flashinfer_sampler", "flashinfer_sampler"),
    ):  # fmt: skip
        if key in row:
            options[option] = row[key]
    if row.get("server") is False:
        total = gib_of(row["total_gib"])
        batch = default_batch(read_version(row["version"]), total, a100=False, server=False)
        options.setdefault("max_num_batched_tokens", batch)
    return LedgerAsk(
        model=model(row),
        gpu=gpu(row),
        layout=Layout(tp=row["tp"]),
        engine="vllm",
        version=row["version"],
        options=options,
        load=Load(row.get("max_model_len", 8192)),
        log=StartLog(engine="vllm", weights_bytes=gib_of(row["weights_gib"])),
    )


def scored() -> list[Scored]:
    return [Scored(row, gib_of(row["pool_gib"]), build_ledger(ask(row))) for row in rows() if row["id"] not in REFUSED]


def p90(values: list[int]) -> int:
    return sorted(values)[ceil(0.9 * len(values)) - 1]


_LINES = (((0, 6), (0, 8)), ((0, 9), (0, 16)), ((0, 17), (0, 20)), ((0, 21), (9, 99)))


def table() -> str:
    """Errors of the pool per range of versions."""
    starts = scored()
    lines = [
        "| vLLM | starts | median error | p90 | worst | mean (sign) | in the band | median band |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for low, high in (*_LINES, ((0, 0), (9, 99))):
        part = [start for start in starts if low <= read_version(start.row["version"]) <= high]
        if not part:
            continue
        name = "all" if low == (0, 0) else f"0.{low[1]} on" if high == (9, 99) else f"0.{low[1]} to 0.{high[1]}"
        errors = [abs(start.error) for start in part]
        signed = sum(start.error for start in part) / len(part)
        inside = sum(start.inside for start in part)
        band = median(start.ledger.high_pool_bytes - start.ledger.low_pool_bytes for start in part)
        cells = (name, len(part), *(f"{size / GIB:.2f} GiB" for size in (median(errors), p90(errors), max(errors))))
        lines.append(
            "| "
            + " | ".join(
                map(str, (*cells, f"{signed / GIB:+.2f} GiB", f"{inside} of {len(part)}", f"{band / GIB:.1f} GiB"))
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def starts_table() -> str:
    lines = ["| start | vLLM | GPU | TP | pool printed | ledger | error | band |", "|---|---|---|---|---|---|---|---|"]
    for start in sorted(scored(), key=lambda start: read_version(start.row["version"])):
        row = start.row
        name = f"[{row['model']}]({row['url']})" if "url" in row else row["model"]
        sizes = (start.logged, start.ledger.pool_bytes)
        band = f"{start.ledger.low_pool_bytes / GIB:.2f} to {start.ledger.high_pool_bytes / GIB:.2f}"
        mark = "" if start.inside else " (outside)"
        cells = (name, row["version"], row["gpu"], row["tp"], *(f"{size / GIB:.2f}" for size in sizes))
        lines.append("| " + " | ".join(map(str, (*cells, f"{start.error / GIB:+.2f}", band + mark))) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/ledger.md with its generated tables."""
    text = PAGE.read_text()
    for name, made in (("ledger-errors", table()), ("ledger-starts", starts_table())):
        head, _, rest = text.partition(f"<!-- {name} -->\n")
        _, _, tail = rest.partition("<!-- end -->")
        text = f"{head}<!-- {name} -->\n{made}<!-- end -->{tail}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
