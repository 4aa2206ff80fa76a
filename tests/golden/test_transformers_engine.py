"""The transformers engine against counts of the real code: a sample recorded by the conformance suite."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvcalc.answers.common import Ask, cache_dtypes
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import Setup, read_options
from kvcalc.errors import EngineRefusal, KvcalcError, UsageError
from kvcalc.importers.hf import import_config

DATA = json.loads((Path(__file__).parents[1] / "data" / "transformers" / "measured.json").read_text())
CASES: list[dict[str, Any]] = DATA["cases"]
ENCODER_TOKENS = 9
ENGINE = get_engine("transformers")[0]


@cache
def model_of(case_id: str) -> Model:
    (case,) = [case for case in CASES if case["case"] == case_id]
    return model_from_document(import_config(case["config"]).document)


def plan(
    model: Model, load: Load, *, dtype: str | None = None, layout: Layout | None = None, **options: str
) -> CachePlan:
    setup = Setup(
        version="5.23",
        dtypes=cache_dtypes(model, Ask(kv_dtype=dtype)),
        layout=layout or Layout(),
        options=read_options(ENGINE, [f"{key}={value}" for key, value in options.items()]),
    )
    return ENGINE.prepare(model, setup).plan(load)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_logical_bytes_are_what_was_counted(case: dict[str, Any]) -> None:
    """Bytes of the tensors equal the count, for every prompt, decode step, batch, type and static cache."""
    model = model_of(case["case"])
    for phase, dtype, batch, tokens, counted, _ in case["rows"]:
        cache = "static" if phase == "static" else "dynamic"
        made = plan(model, Load(tokens, batch, ENCODER_TOKENS), dtype=dtype, cache=cache)
        assert made.total_bytes == counted, (phase, dtype, batch, tokens)
        assert type(made.total_bytes) is int


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_resident_bytes_are_what_was_counted(case: dict[str, Any]) -> None:
    """Bytes of the storages equal the count, right after a prefill and after a decode step."""
    views = {"prefill": "prefill", "decode": "resident"}
    for phase, dtype, batch, tokens, _, resident in case["rows"]:
        if phase in views:
            made = plan(model_of(case["case"]), Load(tokens, batch, ENCODER_TOKENS), dtype=dtype, view=views[phase])
            assert made.total_bytes == resident, (phase, dtype, batch, tokens)


def test_deepseek_v3_at_full_size() -> None:
    """70,272 bytes a token: (512 + 64) x 61 layers x 2, the latent is cached."""
    attention = {"kind": "mla", "heads": 128, "latent_dim": 512, "rope_dim": 64}
    doc = {"name": "v3", "architecture": "deepseek_v3", "layers": 61, "dtype": "bfloat16", "attention": attention}
    assert plan(model_from_document(doc), Load(4096)).total_bytes == 287_834_112
    assert plan(model_from_document(doc), Load(131072)).total_bytes == 9_210_691_584


def test_fp8_cache_adds_one_scale_per_tensor() -> None:
    """QuantizedCache fp8: one byte per element and two float32 scales per layer for the whole batch.

    Counted in transformers 5.23: cache_utils.py Fp8QuantizedLayer.
    """
    model = model_of("llama-causal-default")
    elements = 7 * 10 * 3 * 2 * (16 + 16)  # layers, tokens, sessions, KV heads, K and V
    assert plan(model, Load(10, 3), cache="fp8").total_bytes == elements + 7 * 2 * 4


def test_stages_divide_layers_and_copies_divide_sessions() -> None:
    """Pipeline stages together hold what one device holds; data-parallel copies hold their own sessions."""
    model = model_of("llama-causal-default")
    whole = plan(model, Load(10, 3)).total_bytes
    for layout in (Layout(pp=2), Layout(pp=7), Layout(dp=2), Layout(pp=2, dp=3)):
        made = plan(model, Load(10, 3), layout=layout)
        assert made.total_bytes == whole
        assert len(made.by_rank()) == layout.ranks


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("llama-causal-default", {"dtype": "fp8"}),
    ("llama-causal-default", {"dtype": "k=bf16,v=fp16"}),
    ("llama-causal-default", {"layout": Layout(tp=2)}),
    ("llama-causal-default", {"layout": Layout(pp=8)}),
    ("mistral-causal-default", {"cache": "fp8"}),
    ("deepseek_v4-causal-default", {"cache": "static"}),
    ("deepseek_v4-causal-default", {"dtype": "float16"}),
]


@pytest.mark.parametrize(("case_id", "asked"), REFUSED)
def test_what_transformers_does_not_run_is_refused(case_id: str, asked: dict[str, Any]) -> None:
    """A type, layout or cache class that the library would not run has no number, and the error says what to do."""
    with pytest.raises(EngineRefusal) as refusal:
        plan(model_of(case_id), Load(10), **asked)
    assert refusal.value.fix


@pytest.mark.parametrize("option", [{"cache": "paged"}, {"view": "all"}, {"block_size": "16"}])
def test_unknown_options_are_usage_errors(option: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        read_options(ENGINE, [f"{key}={value}" for key, value in option.items()])


def test_a_checkpoint_cache_type_for_other_engines_is_ignored() -> None:
    """kv_cache_scheme does not change DynamicCache, and the assumption says so."""
    doc = import_config(CASES[0]["config"]).document | {"cache_dtype": "fp8_e4m3"}
    model = model_from_document(doc)
    setup = Setup(version="5.23", dtypes=cache_dtypes(model, Ask()))
    planner = ENGINE.prepare(model, setup)
    assert {tensor.dtype for tensor in planner.plan(Load(10)).ranks[0].tensors} == {"bfloat16"}
    assert any("is ignored" in text for text in planner.assumptions)


def test_only_measured_architectures_are_exact() -> None:
    """A model type outside the measured list is an estimate and says why."""
    doc = import_config(CASES[0]["config"]).document | {"architecture": "somebody_elses"}
    for architecture, label in (("somebody_elses", "estimate"), ("llama", "exact")):
        model = model_from_document(doc | {"architecture": architecture})
        planner = ENGINE.prepare(model, Setup(version="5.23", dtypes=cache_dtypes(model, Ask())))
        assert planner.exactness == label
        assert any("not measured" in text for text in planner.assumptions) == (label == "estimate")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_growth_is_regular_beyond_saturation(case: dict[str, Any]) -> None:
    """From `saturation_tokens` on, every `period_tokens` tokens add the same bytes."""
    model = model_of(case["case"])
    for view in ("logical", "resident", "prefill"):
        try:
            options = read_options(ENGINE, [f"view={view}"])
            planner = ENGINE.prepare(model, Setup(version="5.23", dtypes=cache_dtypes(model, Ask()), options=options))
        except KvcalcError as error:  # pragma: no cover  no case is refused
            raise AssertionError(str(error)) from error
        start, step = planner.saturation_tokens + 1, planner.period_tokens
        sizes = [planner.plan(Load(start + index * step)).total_bytes for index in range(4)]
        assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == sizes[3] - sizes[2]
