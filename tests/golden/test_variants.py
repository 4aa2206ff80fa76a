"""What docs/variants.md says about MHA, GQA, MQA and MLA, from the formulas and from real models."""

from __future__ import annotations

from fractions import Fraction

import pytest
from variants import CLAIMED, PAGE, REAL, growing, page, ratio


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("MHA", "1"), ("GQA, 8 groups", "0.25"), ("MQA", "0.03125"), ("MLA 512 + 64", "0.0703125")],
)
def test_ratio_to_mha(variant: str, expected: str) -> None:
    """32 heads, 8 groups, head_dim 128: the ratios follow from the papers' formulas."""
    assert ratio(CLAIMED[variant][0]) == Fraction(expected)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("DeepSeek-V3", 70_272), ("Llama-3-8B", 131_072), ("Qwen3-30B-A3B", 98_304), ("Qwen3-235B-A22B", 192_512),
     ("Llama-3-70B", 327_680), ("Llama-3.1-405B", 516_096), ("gpt-oss-120b", 36_864)],
)  # fmt: skip
def test_bytes_per_token_of_real_models(model: str, expected: int) -> None:
    """The growing cache per token in bf16, as the models' configs give it."""
    assert growing(REAL[model]) == expected


def test_mla_is_anything_from_larger_to_seven_times_smaller() -> None:
    """Against DeepSeek-V3's MLA, GQA models range from half its cache to more than seven times."""
    v3 = growing(REAL["DeepSeek-V3"])
    others = [Fraction(growing(REAL[name]), v3) for name in ("gpt-oss-120b", "Qwen3-30B-A3B", "Llama-3.1-405B")]
    assert others[0] < 1
    assert 1 < others[1] < 2
    assert others[2] > 7


def test_page_agrees_with_the_formulas() -> None:
    """docs/variants.md holds the recomputed tables."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run: python tests/golden/variants.py"
