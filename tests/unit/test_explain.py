"""The formulas of `explain`, computed as they are written."""

from __future__ import annotations

import re
from fractions import Fraction
from math import prod

import pytest

from kvcalc.answers.common import Ask
from kvcalc.answers.explain import explain
from kvcalc.engines import engine_names
from kvcalc.errors import EngineRefusal
from kvcalc.registry import load_registry
from kvcalc.targets import Target

MODELS = ("llama-3.1-8b", "gemma-3-27b", "deepseek-v3", "qwen3-next-80b-a3b", "gpt-oss-20b", "falcon-h1-7b")


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("name", MODELS)
def test_formulas_are_true(engine: str, name: str) -> None:
    """The product that is written down is the number of bytes, for arrays per session and for shared pools."""
    target = Target(model=load_registry().model(name), origin="registry")
    try:
        answer = explain(target, Ask(engine=engine, context_tokens=5000, sessions=3))
    except EngineRefusal:
        pytest.skip("this engine does not run the model")
    for term in answer["terms"]:
        product, _, size = term["formula"].partition(" = ")
        factors = [Fraction(text.replace(",", "")) for text in re.findall(r"(?<![a-z])[0-9][0-9,/]*", product)]
        assert prod(factors) == int(size.removesuffix(" B").replace(",", "")) == term["bytes"], term["formula"]
