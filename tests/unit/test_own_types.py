"""Engines whose cache has one type: a type of another width that was asked for is refused, never ignored."""

from __future__ import annotations

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
LOCAL = HEADS | {"window": 256}
WIDE = {"key": "float32", "value": "float32"}


@pytest.mark.parametrize(
    ("engine", "own"),
    [
        ("exllamav3", "float16"),  # ExLlamaV3 1.6.5 cache/fp16.py CacheLayer_fp16: torch.half
        ("mlx-lm", "bfloat16"),  # MLX-LM 0.32.2 models/cache.py KVCache: the type of the keys it is given, the model's
    ],
)
def test_another_width_is_refused(engine: str, own: str) -> None:
    """float32 is no type of theirs; 16 bits of another name are the same cache."""
    model = model_of(HEADS)
    for types in (WIDE, {"key": "float32"}, {"value": "float32"}):
        with pytest.raises(EngineRefusal, match=f"cannot keep its cache in float32: it takes {own}") as caught:
            started(engine, model, types=types)
        assert (caught.value.field, caught.value.value) == ("kv-dtype", "float32")
        assert caught.value.fix
    for name in ("bfloat16", "float16"):
        tensors = started(engine, model, types={"key": name, "value": name}).plan(Load(256)).ranks[0].tensors
        assert {tensor.dtype for tensor in tensors} == {own}


def test_lmdeploy_keeps_the_type_asked_for_whatever_the_file_says() -> None:
    """A checkpoint that names fp8 keeps 16 bits unless asked (quant_policy 0); asked for fp8 it has policy 16."""
    model = model_of(HEADS, cache_dtype="fp8_e4m3")
    asked = started("lmdeploy", model, types={"key": "fp8_e4m3", "value": "fp8_e4m3"})
    assert asked.report(Load(64))["quant_policy"] == 16
    assert started("lmdeploy", model).report(Load(64))["quant_policy"] == 0


def test_a_stage_without_pages_runs_out_of_none() -> None:
    """ExLlamaV3 with a stage of rings alone: the paged stage decides max_num_tokens.

    A page of the paged layer: 256 tokens x 2 (K and V) x 4 heads x 64 x 2 B = 262,144 B; 12 MiB hold 48 of them.
    """
    model = model_of({"w": LOCAL, "f": HEADS}, pattern=["w", "f"], cls="GptOssForCausalLM")
    planner = started("exllamav3", model, layout=Layout(pp=2))
    assert planner.report(Load(1), 12 * 2**20 + 7)["max_num_tokens"] == 48 * 256
