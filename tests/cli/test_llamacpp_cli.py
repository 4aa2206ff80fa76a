"""The llama.cpp engine and its presets from the command line, with a GGUF file as the target."""

from __future__ import annotations

from pathlib import Path

import pytest
from calling import Call
from gguf_bytes import TensorInfo, Value, gguf_bytes

GEMMA: dict[str, Value] = {
    "general.architecture": "gemma3", "general.name": "Gemma 3 27B", "gemma3.context_length": 131072,
    "gemma3.embedding_length": 5376, "gemma3.block_count": 62, "gemma3.attention.head_count": 32,
    "gemma3.attention.head_count_kv": 16, "gemma3.attention.key_length": 128, "gemma3.attention.value_length": 128,
    "gemma3.attention.sliding_window": 1024, "gemma3.vocab_size": 262144,
}  # fmt: skip
#: 62 tensors of 2**18 x 833 elements in Q4_K: 7.6 GB.
TENSORS = [TensorInfo(f"blk.{index}.ffn_up.weight", (2**18, 833), 12) for index in range(62)]


@pytest.fixture
def gguf(tmp_path: Path) -> str:
    path = tmp_path / "gemma-3-27b.gguf"
    path.write_bytes(gguf_bytes(GEMMA, TENSORS))
    return str(path)


def test_size_answers_with_the_engine_s_own_numbers(call: Call, gguf: str) -> None:
    """total_bytes is what the library takes at 4,096; engine_report says n_ctx, n_ctx_seq, context_bytes."""
    answer = call("size", gguf, "-e", "llama.cpp", "-c", "4096", "--json").answer
    assert answer["total_bytes"] == answer["engine_report"]["context_bytes"] == 989_855_744
    assert (answer["engine_report"]["n_ctx"], answer["engine_report"]["n_ctx_seq"]) == (4096, 4096)
    assert answer["inputs"]["kv_dtype"] == {"key": "float16", "value": "float16"}
    four = call("size", gguf, "-e", "llama.cpp", "-c", "1024", "-n", "4", "--json").answer
    assert four["total_bytes"] == 2_080_374_784  # four slots of 1,024, each with its window, as measured


def test_an_engine_s_refusal_is_exit_1_with_its_reason(call: Call, gguf: str) -> None:
    """Quantised values without flash attention."""
    done = call("size", gguf, "-e", "llama.cpp", "--kv-dtype", "v=q8_0", "-o", "flash_attn=off", "--json")
    assert done.code == 1
    assert done.error["message"] == "quantized V cache requires flash_attn to be enabled"


def test_fit_says_what_num_ctx_and_num_parallel_cost(call: Call, gguf: str) -> None:
    """`kvcalc fit model.gguf -e ollama --gpu rtx-3090 -c 32k`: settings that fit, and what each step up costs."""
    answer = call("fit", gguf, "-e", "ollama", "--gpu", "rtx-3090", "-c", "32k", "--json").answer
    report = answer["engine_report"]
    assert (report["num_ctx"], report["num_parallel"], report["n_ctx"]) == (32_768, 1, 32_768)
    steps = {(row["num_ctx"], row["num_parallel"]): row for row in report["steps"]}
    assert steps[32_768, 1]["added_bytes"] == 0
    assert steps[65_536, 1]["added_bytes"] == steps[65_536, 1]["bytes"] - answer["total_bytes"] > 0
    assert {row["fits"] for row in report["steps"]} == {True, False}
    assert report["max_n_gpu_layers"] == report["all_n_gpu_layers"] == 63


def test_a_model_too_large_for_the_card_says_how_many_layers_fit(call: Call, gguf: str) -> None:
    """Weights beyond the card are no reason for a second one: layers stay on the host."""
    answer = call("fit", gguf, "-e", "llama.cpp", "--gpu", "rtx-3080-10gb", "-c", "64k", "--json").answer
    report = answer["engine_report"]
    assert answer["layout"]["tp"] == 1
    assert 0 < report["max_n_gpu_layers"] < report["all_n_gpu_layers"] == 63
    some = call("size", gguf, "-e", "llama.cpp", "-c", "8k", "-o", "n_gpu_layers=20", "--json").answer
    assert some["engine_report"]["host_bytes"] + some["ranks"][0]["bytes"] == some["total_bytes"]


def test_several_gpus_are_layers_in_parts(call: Call, gguf: str) -> None:
    """--gpu NAME:2 asks for --pp 2; --tp is refused."""
    done = call("fit", gguf, "-e", "llama.cpp", "--gpu", "rtx-3090:2", "--json")
    assert done.code == 2
    assert done.error["fix"] == "add --pp 2"
    answer = call("fit", gguf, "-e", "llama.cpp", "--gpu", "rtx-3090:2", "--pp", "2", "--json").answer
    assert len(answer["ranks"]) == 2
    assert call("size", gguf, "-e", "llama.cpp", "--tp", "2").code == 2


def test_no_fp8_is_advised_where_there_is_none(call: Call, gguf: str) -> None:
    """llama.cpp's narrow type is q8_0."""
    answer = call("fit", gguf, "-e", "llama.cpp", "--gpu", "rtx-3090", "-c", "128k", "-n", "4", "--json").answer
    changes = {item["change"] for item in answer["advice"]}
    assert "--kv-dtype q8_0" in changes
    assert "--kv-dtype fp8" not in changes


def test_a_broken_file_is_exit_3(call: Call, tmp_path: Path) -> None:
    """One line what, one line how to fix it; no traceback."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(10))
    done = call("size", str(path), "--json")
    assert done.code == 3
    assert "truncated" in done.error["message"]
