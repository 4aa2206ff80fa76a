"""What a type checker sees of the public API. Never run: `mypy --strict` compiles it, and an unused ignore fails."""

from __future__ import annotations

from typing import Any, assert_type

import kvcalc
from kvcalc import Cache, LoadedModel
from kvcalc.answers.schemas import (
    CompareAnswer,
    FitAnswer,
    GpusAnswer,
    MeasureAnswer,
    ModelsAnswer,
    PlanAnswer,
    SessionsAnswer,
    SizeAnswer,
)
from kvcalc.asking import Answer
from kvcalc.core.result import FitRecord, LedgerLine


def one_model() -> None:
    model = kvcalc.load("llama3")
    assert_type(model, LoadedModel)
    assert_type(model.cache("128k", sessions=4, kv_dtype="fp8"), Cache)
    assert_type(model.cache().bytes, int)
    assert_type(model.max_context("24GiB"), int | None)
    assert_type(model.size(context=8192), SizeAnswer)
    fit = model.fit(gpu="h100-80gb", tp=2, context="32k", sessions=8, options={"gpu_memory_utilization": 0.9})
    assert_type(fit, FitAnswer)
    assert_type(fit["ledger"], list[LedgerLine])
    assert_type(fit["pool_bytes"], int)
    assert_type(fit["max_sessions"], int | None)
    assert_type(fit["fits"], bool)
    assert_type(model.sessions(gpu="l4", workload=[(900, 150)]), SessionsAnswer)
    assert_type(model.sessions(gpu="l4", input={"p50": 900, "p95": 3000}, output=150), SessionsAnswer)
    assert_type(model.plan(users=200, gpu=["h100-80gb", "h200"]), PlanAnswer)
    assert_type(model.measure(device="cpu"), MeasureAnswer)
    assert_type(model.ask("size"), Answer)


def several() -> None:
    answer = kvcalc.compare(["llama3", kvcalc.load("deepseek-v2")], engines=["vllm", "sglang"])
    assert_type(answer, CompareAnswer)
    record = answer["results"][0]
    pool: int = record["pool_bytes"]
    both: FitRecord = record
    del pool, both
    assert_type(kvcalc.plan("llama3", users=3), PlanAnswer)
    assert_type(kvcalc.list_models("qwen"), ModelsAnswer)
    assert_type(kvcalc.list_gpus()["results"][0]["total_bytes"], int)
    assert_type(kvcalc.list_gpus(), GpusAnswer)
    assert_type(kvcalc.json_schema("fit"), dict[str, Any])


def mistakes() -> None:
    """Each line is an error that a checker finds."""
    model = kvcalc.load("llama3")
    model.fit(gpuu="h100")  # type: ignore[call-arg]
    model.fit(tp="two")  # type: ignore[arg-type]
    model.fit(pool=1)["pool"]  # type: ignore[typeddict-item]
    model.size(pool="24GiB")  # type: ignore[call-arg]
    kvcalc.plan("llama3", tp=2)  # type: ignore[call-arg]
