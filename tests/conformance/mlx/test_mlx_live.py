"""The real MLX-LM on CPU: its own model classes with small random weights generate, and their caches are measured.

Needs requirements.txt; skipped loudly without it, and failed where KVCALC_REQUIRE_CONFORMANCE is set.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from recorded import model_of, prepared
from tiny import CONFIGS

from kvcalc.core.plan import Load
from kvcalc.errors import EngineRefusal

try:
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import _get_classes
except ImportError as missing:
    if os.environ.get("KVCALC_REQUIRE_CONFORMANCE"):
        raise
    pytest.skip(f"MLX-LM is not installed, NOTHING of it was checked: {missing}", allow_module_level=True)

#: Prompt and generated tokens: the first step, inside a step, over a step and (for windows of 128) around the window.
LENGTHS = ((1, 1), (20, 2), (300, 3), (127, 4))


@pytest.fixture(autouse=True)
def bfloat16_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has no bfloat16 kernel for expert layers; they touch no cache."""
    real = mx.gather_mm

    def widened(a: Any, b: Any, *more: Any, **named: Any) -> Any:
        return real(a.astype(mx.float32), b.astype(mx.float32), *more, **named).astype(a.dtype)

    monkeypatch.setattr(mx, "gather_mm", widened)


def nbytes(cache: Any) -> int:
    """Bytes of one layer's cache, lists of caches added up."""
    return sum(map(nbytes, cache.caches)) if hasattr(cache, "caches") else int(cache.nbytes)


def generated(config: dict[str, Any], prompt: int, decode: int, **options: Any) -> int:
    """Bytes of all caches after really generating."""
    classes = _get_classes(dict(config))
    model = classes[0](classes[1].from_dict(dict(config)))
    model.set_dtype(mx.bfloat16)
    model.eval()
    caches = make_prompt_cache(model, options.pop("max_kv_size", None))
    for _ in generate_step(mx.array([1] * prompt), model, max_tokens=decode, prompt_cache=caches, **options):
        pass
    return sum(map(nbytes, caches))


@pytest.mark.parametrize("name", CONFIGS)
def test_caches_after_generating(name: str) -> None:
    """Every module's caches hold the bytes that kvcalc says, at every length."""
    model = model_of(CONFIGS[name])
    for prompt, decode in LENGTHS:
        ours = prepared("mlx-lm", model, max_tokens=decode).plan(Load(prompt + decode)).total_bytes
        assert ours == generated(CONFIGS[name], prompt, decode), (prompt, decode)


@pytest.mark.parametrize("name", ["olmo_hybrid", "qwen3_next", "gemma2", "falcon_h1", "longcat_flash"])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_caches(name: str, bits: int) -> None:
    """kv_bits: packed words, a scale and a bias per group; states and lists of caches are left alone."""
    options = {"kv_bits": bits, "kv_group_size": 32, "quantized_kv_start": 0}
    config = CONFIGS[name]
    try:
        planner = prepared("mlx-lm", model_of(config), max_tokens=3, **options)
    except EngineRefusal:
        with pytest.raises((NotImplementedError, AttributeError, TypeError)):
            generated(config, 300, 3, **options)
        return
    assert planner.plan(Load(303)).total_bytes == generated(config, 300, 3, **options)


def test_max_kv_size_rotates_only_models_without_caches_of_their_own() -> None:
    """Gemma 2 makes no cache of its own, OLMo 3 does."""
    for name in ("gemma2", "olmo3"):
        ours = prepared("mlx-lm", model_of(CONFIGS[name]), max_tokens=3, max_kv_size=128).plan(Load(303)).total_bytes
        assert ours == generated(CONFIGS[name], 300, 3, max_kv_size=128)


def test_rotating_caches_refuse_bits() -> None:
    """OLMo 3's rotating caches raise as soon as they are to be quantised, and kvcalc refuses."""
    options = {"kv_bits": 8, "quantized_kv_start": 0, "kv_group_size": 32}
    with pytest.raises(EngineRefusal, match="RotatingKVCache Quantization NYI"):
        prepared("mlx-lm", model_of(CONFIGS["olmo3"]), **options)
    with pytest.raises(NotImplementedError, match="RotatingKVCache Quantization NYI"):
        generated(CONFIGS["olmo3"], 20, 2, **options)
