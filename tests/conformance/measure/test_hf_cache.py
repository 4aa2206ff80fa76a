"""The cache classes of transformers, built from published configs and filled, hold what the engine's plan says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvcalc.answers.common import Ask
from kvcalc.errors import CannotMeasure, EngineRefusal
from kvcalc.measure.devices import open_device
from kvcalc.measure.hf_cache import measure_cache
from kvcalc.targets import load_path

FIXTURES = Path(__file__).parents[2] / "data" / "hf" / "configs.jsonl"
CONFIGS: dict[str, dict[str, Any]] = {
    record["repo"]: record["config"] for record in map(json.loads, FIXTURES.read_text().splitlines())
}
#: Shorter and longer than the usual windows, and no multiple of anything.
TOKENS = (1, 70, 5003)
#: Not known to the library without the checkpoint's own code, or with cache layers that only its model fills.
REFUSED = {
    "MiniMaxAI/MiniMax-M3",
    "RWKV/rwkv-5-world-3b",
    "deepseek-ai/DeepSeek-V4-Flash",
    "internlm/internlm2_5-7b-chat",
    "microsoft/phi-2",
    "mistralai/Ministral-3-3B-Instruct-2512",  # its text config is read as a plain mapping
    "moonshotai/Kimi-K2-Instruct",
    "moonshotai/Kimi-K3",
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1",
    "openbmb/MiniCPM-2B",
}
#: Where the library's config and the model file disagree: repo -> why.
DIFFERENT = {
    "XiaomiMiMo/MiMo-V2-Flash": "configuration_mimo_v2_flash.py:132 makes the window sliding_window_size + 1 = 129",
    "stepfun-ai/Step-3.7-Flash": "the flat config is read as an outer one, whose text config is all full attention",
}


def measure(repo: str, tmp_path: Path, tokens: int, *, cache: str = "dynamic", device: str = "meta") -> dict[str, Any]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS[repo]))
    ask = Ask(context_tokens=tokens, sessions=2, engine_options=(f"cache={cache}",))
    return measure_cache(load_path(str(path)), ask, open_device(device))


@pytest.mark.parametrize("cache", ["dynamic", "static", "fp8"])
@pytest.mark.parametrize("repo", list(CONFIGS))
def test_real_classes_hold_the_plan(repo: str, cache: str, tmp_path: Path) -> None:
    """Every tensor of the library's cache at real size (shapes and storages on `meta`), at several lengths."""
    for tokens in TOKENS:
        try:
            answer = measure(repo, tmp_path, tokens, cache=cache)
        except EngineRefusal:
            assert cache != "dynamic"
            return
        except CannotMeasure:
            assert repo in REFUSED
            return
        rows = answer["measured_ranks"][0]["tensors"]
        wrong = [row for row in rows if not row["equal"]]
        if repo in DIFFERENT and tokens == TOKENS[-1]:
            assert wrong, f"no longer different: {DIFFERENT[repo]}"
            return
        assert wrong == []
        assert answer["predicted_bytes"] == answer["requested_bytes"] > 0
    assert repo not in REFUSED


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize(
    "repo",
    ["openai/gpt-oss-20b", "ibm-granite/granite-4.0-h-1b", "tiiuae/Falcon-H1-7B-Instruct", "google/gemma-3-1b-it"],
)
def test_real_classes_in_memory(repo: str, cache: str, tmp_path: Path) -> None:
    """The same with real memory: windows and full attention, Mamba-2 layers, attention and SSM in one layer."""
    assert measure(repo, tmp_path, 600, cache=cache, device="cpu")["equal"] is True
