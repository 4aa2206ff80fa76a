"""Every shipped model: its figures, its own checks, and the way back to its document."""

from __future__ import annotations

import json
from typing import Any

import pytest
from published import ROOT

from kvcalc.answers.common import Ask
from kvcalc.answers.size import size
from kvcalc.core.model import Check
from kvcalc.document import document_from_model, model_from_document
from kvcalc.registry import load_registry
from kvcalc.targets import load_target

REGISTRY = load_registry()
NAMES = REGISTRY.model_names()
DERIVED: dict[str, list[int]] = json.loads((ROOT / "tests" / "data" / "derived.json").read_text(encoding="utf-8"))[
    "models"
]
CHECKS = [(name, check) for name in NAMES for check in REGISTRY.model(name).checks]
#: Models whose cache also depends on an encoder; 1,500 positions is Whisper's own length.
ENCODER_TOKENS = 1500


def record(name: str, **asked: Any) -> dict[str, Any]:
    """The answer of `size` for a shipped model in bf16, or as asked."""
    plain: dict[str, Any] = {"kv_dtype": "bfloat16", "index_dtype": "bfloat16", "encoder_tokens": ENCODER_TOKENS}
    return size(load_target(name, REGISTRY), Ask(**plain | asked))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("llama3", 131_072), ("llama3-70b", 327_680), ("llama-3.1-405b", 516_096), ("llama-2-7b", 524_288),
     ("falcon-7b", 8_192), ("deepseek-v2", 69_120), ("deepseek-v3", 70_272), ("qwen2.5-72b", 327_680),
     ("qwen3-235b-a22b", 192_512), ("mimo-v2-flash", 23_040), ("gpt-oss-120b", 36_864)],
)  # fmt: skip
def test_growing_bytes_per_token(name: str, expected: int) -> None:
    """layers x what each keeps per token, from the configs, in bf16."""
    assert record(name)["marginal_bytes_per_token"] == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gemma3-27b", 11_173_625_856), ("gpt-oss-20b", 3_224_371_200), ("llama-4-scout", 7_650_410_496),
     ("mistral-7b-v0.1", 536_870_912), ("qwen3-next-80b", 3_221_225_472 + 77_266_944),
     ("jamba-v0.1", 2_163_539_968), ("nemotron-3-nano-30b-a3b", 854_388_736)],
)  # fmt: skip
def test_one_session_of_131072_tokens(name: str, expected: int) -> None:
    """Windows kept, chunks kept, float32 states and bf16 convolution tails, in bytes."""
    assert record(name, context_tokens=131_072)["per_session_bytes"] == expected


def test_gemma_2_27b_shape() -> None:
    """23 layers with a window of 4,096 and 23 without, 16 KV heads of 128, at 131,072 tokens."""
    assert record("gemma-2-27b", context_tokens=131_072)["per_session_bytes"] == 25_467_813_888


def test_derived_figures_cover_the_registry() -> None:
    """Nearly every shipped model has independently derived figures, and none of them is for a model not shipped."""
    assert set(DERIVED) <= set(NAMES)
    assert len(DERIVED) >= 0.9 * len(NAMES)


@pytest.mark.parametrize("name", list(DERIVED))
def test_equal_to_independent_derivation(name: str) -> None:
    """Bytes at 4,096, 32,768 and 131,072 tokens are those of another program that read the same configs."""
    found = [record(name, context_tokens=tokens)["per_session_bytes"] for tokens in (4096, 32_768, 131_072)]
    assert found == DERIVED[name]


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=lambda value: value if isinstance(value, str) else "")
def test_published_checks_of_the_model_file(name: str, check: Check) -> None:
    """The figures a model file carries are reproduced."""
    asked: dict[str, Any] = {"context_tokens": check.context, "sessions": check.sessions, "engine": check.engine}
    if check.dtype is not None:
        asked["kv_dtype"] = check.dtype
    assert record(name, **asked)["total_bytes"] == check.bytes, check.published


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_of_a_shipped_model(name: str) -> None:
    """document -> model -> document -> model gives an equal model; every block lowers; a source is named."""
    model = REGISTRY.model(name)
    again = model_from_document(document_from_model(model))
    assert again == model
    assert document_from_model(again) == document_from_model(model)
    for kind in model.blocks.values():
        kind.lower()
    assert model.source.repo or model.source.url
