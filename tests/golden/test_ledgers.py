"""The ledger against what engines printed when they started."""

from __future__ import annotations

from statistics import median

import ledgers
import pytest

from kvcalc.core.plan import Layout
from kvcalc.engines.vllm.defaults import read_version
from kvcalc.errors import UsageError
from kvcalc.planning.amount import gib_of
from kvcalc.planning.ledger import LedgerAsk, build_ledger
from kvcalc.planning.llamacpp_memory import compute_buffer
from kvcalc.planning.startlog import StartLog
from kvcalc.registry import load_registry
from kvcalc.units import GIB, MIB


def test_pool_errors() -> None:
    """Over the logged starts the pool is off by 0.25 GiB in the median and 1.2 GiB at the ninth decile at most."""
    errors = [abs(start.error) for start in ledgers.scored()]
    assert len(errors) == 29
    assert median(errors) <= 0.25 * GIB
    assert ledgers.p90(errors) <= 1.2 * GIB


def test_pools_are_in_the_band() -> None:
    """Nine of ten logged pools lie between the low and the high one."""
    inside = [start.inside for start in ledgers.scored()]
    assert sum(inside) >= 0.9 * len(inside)


#: Releases whose log prints the activation peak by itself.
PEAKS = [row for row in ledgers.rows() if "activation_gib" in row and (0, 9) <= read_version(row["version"]) <= (0, 20)]


@pytest.mark.parametrize("row", PEAKS, ids=lambda row: row["id"])
def test_activation_peak(row: ledgers.Row) -> None:
    """The closed form gives the printed activation peak within 0.1 GiB."""
    lines = {line["item"]: -line["bytes"] for line in build_ledger(ledgers.ask(row)).lines}
    peak = sum(lines.get(item, 0) for item in ("activation peak", "expert workspace", "encoder profile"))
    assert abs(peak - gib_of(row["activation_gib"])) <= GIB // 10


@pytest.mark.parametrize("row", [row for row in ledgers.rows() if row["id"] in ledgers.REFUSED], ids=lambda r: r["id"])
def test_refused_where_the_method_does_not_hold(row: ledgers.Row) -> None:
    """ROCm and DeepSeek-V4 get no number, but the name of what to supply; with --overhead they do."""
    with pytest.raises(UsageError, match="unknown here") as refused:
        build_ledger(ledgers.ask(row))
    assert refused.value.fix is not None
    assert "--overhead" in refused.value.fix
    assert "--from-log" in refused.value.fix
    ask = ledgers.ask(row)._replace(overhead_bytes=5 * GIB)
    assert build_ledger(ask).lines[-1]["bytes"] == -5 * GIB


#: "Model loading took" of vLLM: model, TP, type of the weights, GiB as printed, accepted error in parts per thousand.
LOADED = (
    ("llama-3.1-8b", 1, None, 14.99, 1), ("llama-3-8b", 1, None, 14.96, 1), ("llama-3.3-70b", 2, "fp8", 33.88, 5),
    ("llama-3.3-70b", 4, None, 32.89, 5), ("qwen3-0.6b", 1, None, 1.12, 5), ("qwen3-32b", 1, None, 61.03, 1),
    ("gpt-oss-20b", 1, None, 13.47, 15), ("gpt-oss-120b", 1, None, 64.38, 10), ("deepseek-v3", 8, None, 79.74, 5),
    ("qwen3-235b-a22b", 4, "fp8", 55.19, 5), ("qwen3-30b-a3b", 4, None, 14.25, 10), ("qwen3-8b", 4, None, 3.85, 15),
    ("qwen2.5-7b", 1, None, 14.25, 5), ("qwen2.5-32b", 2, None, 30.71, 5), ("qwen2.5-1.5b", 1, None, 2.89, 10),
    ("kimi-k2.7-code", 8, None, 72.02, 5),
    ("qwen3.5-35b-a3b", 1, "fp8", 34.43, 35), ("qwen3-next-80b-a3b", 4, None, 37.99, 10),
)  # fmt: skip


@pytest.mark.parametrize(("name", "tp", "dtype", "printed", "thousandths"), LOADED)
def test_weights_per_rank(name: str, tp: int, dtype: str | None, printed: float, thousandths: int) -> None:
    """The weights of the fullest rank are what vLLM says that loading took."""
    registry = load_registry()
    ask = LedgerAsk(
        model=registry.model(name),
        gpu=registry.gpu("b200"),
        layout=Layout(tp=tp),
        engine="vllm",
        version="0.18",
        weight_dtype=dtype,
        overhead_bytes=0,
    )
    weights = -next(line["bytes"] for line in build_ledger(ask).lines if line["item"] == "weights")
    assert abs(weights / GIB - printed) <= printed * thousandths / 1000 + 0.005


@pytest.mark.parametrize("row", ledgers.others("sglang"), ids=lambda row: row["id"])
def test_sglang_pool(row: ledgers.Row) -> None:
    """SGLang's pool follows from free memory before and after loading, to the 0.01 GiB its log prints."""
    registry = load_registry()
    log = StartLog(
        engine="sglang",
        free_before_bytes=gib_of(row["free_before_gib"]),
        free_after_bytes=gib_of(row["free_after_gib"]),
        utilization=row["fraction"],
    )
    ask = LedgerAsk(
        model=registry.model("qwen3-14b"), gpu=registry.gpu("rtx-4090"), layout=Layout(tp=row["tp"]),
        engine="sglang", version="0.5", log=log,
    )  # fmt: skip
    assert abs(build_ledger(ask).pool_bytes - gib_of(row["pool_gib"])) <= GIB // 100


@pytest.mark.parametrize("row", ledgers.others("llama.cpp"), ids=lambda row: row["id"])
def test_llamacpp_compute_buffer(row: ledgers.Row) -> None:
    """Mistral-7B's compute buffers are met to the MiB, the others within 6 %."""
    size = compute_buffer(
        ubatch=row["n_ubatch"], embedding=row["n_embd"], heads=row["n_head"], vocab=row["n_vocab"],
        context=row["n_ctx"], flash=row["flash"], outputs=row["n_ubatch"],
    )  # fmt: skip
    printed = row["compute_mib"] * MIB
    assert size == printed if "mistral" in row["id"] else abs(size - printed) <= 0.06 * printed


def test_page_is_current() -> None:
    """docs/ledger.md shows the errors of today's ledger."""
    assert ledgers.page() == ledgers.PAGE.read_text(), "run python tests/golden/ledgers.py"
