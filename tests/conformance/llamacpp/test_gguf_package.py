"""GGUF files written by the reference package read back as the model of their config.json.

The keys are those that llama.cpp's converter writes (0c1e57098, conversion/*.py); configs are the published ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from kvcalc.core.model import Kind, Model
from kvcalc.document import model_from_document
from kvcalc.importers.gguf import import_gguf
from kvcalc.importers.gguf_file import BLOCKS, Skipped, read_header
from kvcalc.importers.hf import import_config

CONFIGS = Path(__file__).parents[2] / "data" / "hf" / "configs.jsonl"
Config = dict[str, Any]
Writer = Any


def config_of(repo: str) -> Config:
    """A published config.json."""
    rows = (json.loads(line) for line in CONFIGS.read_text(encoding="utf-8").splitlines())
    config: Config = next(row["config"] for row in rows if row["repo"] == repo)
    return config


def text_of(config: Config) -> Config:
    section: Config = config.get("text_config", config)
    return section


def plain(out: Writer, text: Config) -> None:
    """What the converter writes for every text model (conversion/base.py TextModel.set_gguf_parameters)."""
    out.add_block_count(text["num_hidden_layers"])
    out.add_context_length(text["max_position_embeddings"])
    out.add_embedding_length(text["hidden_size"])
    out.add_feed_forward_length(text.get("intermediate_size", 0))
    out.add_head_count(text["num_attention_heads"])
    if "num_key_value_heads" in text:
        out.add_head_count_kv(text["num_key_value_heads"])
    if text.get("head_dim"):
        out.add_key_length(text["head_dim"])
        out.add_value_length(text["head_dim"])


def sliding(out: Writer, text: Config) -> None:
    plain(out, text)
    out.add_sliding_window(text["sliding_window"])


def latent(out: Writer, text: Config) -> None:
    """conversion/deepseek.py DeepseekV2Model: one KV head as wide as the latent and its rotary key."""
    plain(out, {**text, "num_key_value_heads": 1, "head_dim": None})
    out.add_kv_lora_rank(text["kv_lora_rank"])
    out.add_key_length(text["kv_lora_rank"] + text["qk_rope_head_dim"])
    out.add_value_length(text["kv_lora_rank"])
    out.add_key_length_mla(text["qk_nope_head_dim"] + text["qk_rope_head_dim"])
    out.add_value_length_mla(text["v_head_dim"])


def indexed(out: Writer, text: Config) -> None:
    latent(out, text)
    out.add_indexer_key_length(text["index_head_dim"])


def mamba(out: Writer, text: Config) -> None:
    out.add_block_count(text["num_hidden_layers"])
    out.add_context_length(2**20)
    out.add_embedding_length(text["hidden_size"])
    out.add_head_count(0)
    out.add_ssm_conv_kernel(text["conv_kernel"])
    out.add_ssm_inner_size(text["intermediate_size"])
    out.add_ssm_state_size(text["state_size"])
    out.add_ssm_time_step_rank(text["time_step_rank"])


def short_conv(out: Writer, text: Config) -> None:
    full = {index for index, kind in enumerate(text["layer_types"]) if kind == "full_attention"}
    groups = text["num_key_value_heads"]
    plain(out, {**text, "num_key_value_heads": [groups if i in full else 0 for i in range(text["num_hidden_layers"])]})
    out.add_shortconv_l_cache(text["conv_L_cache"])


def granite(out: Writer, text: Config) -> None:
    groups = [text["num_key_value_heads"] if kind == "attention" else 0 for kind in text["layer_types"]]
    plain(out, {**text, "num_key_value_heads": groups})
    out.add_ssm_conv_kernel(text["mamba_d_conv"])
    out.add_ssm_state_size(text["mamba_d_state"])
    out.add_ssm_group_count(text["mamba_n_groups"])
    out.add_ssm_inner_size(text["mamba_expand"] * text["hidden_size"])
    out.add_ssm_time_step_rank(text["mamba_n_heads"])


def falcon_h1(out: Writer, text: Config) -> None:
    plain(out, text)
    out.add_ssm_conv_kernel(text["mamba_d_conv"])
    out.add_ssm_state_size(text["mamba_d_state"])
    out.add_ssm_group_count(text["mamba_n_groups"])
    out.add_ssm_inner_size(text["mamba_d_ssm"])
    out.add_ssm_time_step_rank(text["mamba_n_heads"])


def delta(out: Writer, text: Config) -> None:
    plain(out, text)
    out.add_ssm_conv_kernel(text["linear_conv_kernel_dim"])
    out.add_ssm_state_size(text["linear_key_head_dim"])
    out.add_ssm_group_count(text["linear_num_key_heads"])
    out.add_ssm_time_step_rank(text["linear_num_value_heads"])
    out.add_ssm_inner_size(text["linear_value_head_dim"] * text["linear_num_value_heads"])
    out.add_full_attention_interval(text.get("full_attention_interval", 4))


def mimo(out: Writer, text: Config) -> None:
    slides = text["hybrid_layer_pattern"]
    own, full = text["swa_num_key_value_heads"], text["num_key_value_heads"]
    plain(out, {**text, "num_key_value_heads": [own if flag else full for flag in slides]})
    out.add_value_length(text["v_head_dim"])
    out.add_sliding_window(text["sliding_window"])
    out.add_sliding_window_pattern([bool(flag) for flag in slides])


def gemma_4(out: Writer, text: Config) -> None:
    """conversion/gemma.py Gemma4Model: full layers have heads and widths of their own."""
    slides = [kind == "sliding_attention" for kind in text["layer_types"]]
    own, full = text["num_key_value_heads"], text.get("num_global_key_value_heads") or text["num_key_value_heads"]
    plain(out, {**text, "num_key_value_heads": [own if flag else full for flag in slides], "head_dim": None})
    wide = text.get("global_head_dim") or text["head_dim"]
    out.add_key_length(wide)
    out.add_value_length(wide)
    out.add_key_length_swa(text["head_dim"])
    out.add_value_length_swa(text["head_dim"])
    out.add_sliding_window(text["sliding_window"])
    out.add_sliding_window_pattern(slides)
    out.add_shared_kv_layers(text.get("num_kv_shared_layers") or 0)


def nemotron(out: Writer, text: Config) -> None:
    letters = text["hybrid_override_pattern"]
    plain(out, {**text, "num_key_value_heads": [text["num_key_value_heads"] if c == "*" else 0 for c in letters]})
    out.add_feed_forward_length([1 if c in "-E" else 0 for c in letters])
    out.add_ssm_conv_kernel(text["conv_kernel"])
    out.add_ssm_state_size(text["ssm_state_size"])
    out.add_ssm_group_count(text["n_groups"])
    out.add_ssm_inner_size(text["mamba_num_heads"] * text["mamba_head_dim"])
    out.add_ssm_time_step_rank(text["mamba_num_heads"])


TWINS: dict[str, tuple[str, Callable[[Writer, Config], None]]] = {
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", plain),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2", plain),
    "Qwen/Qwen3-8B": ("qwen3", plain),
    "Qwen/Qwen3-235B-A22B": ("qwen3moe", plain),
    "google/gemma-2-9b": ("gemma2", sliding),
    "google/gemma-3-1b-it": ("gemma3", sliding),
    "google/gemma-4-26B-A4B": ("gemma4", gemma_4),
    "openai/gpt-oss-20b": ("gpt-oss", sliding),
    "internlm/internlm2_5-7b-chat": ("internlm2", plain),
    "allenai/OLMo-2-1124-7B": ("olmo2", plain),
    "deepseek-ai/DeepSeek-V2-Lite": ("deepseek2", latent),
    "deepseek-ai/DeepSeek-V3": ("deepseek2", latent),
    "deepseek-ai/DeepSeek-V3.2": ("deepseek32", indexed),
    "tiiuae/falcon-mamba-7b": ("mamba", mamba),
    "LiquidAI/LFM2-2.6B": ("lfm2", short_conv),
    "ibm-granite/granite-4.0-h-tiny": ("granitehybrid", granite),
    "tiiuae/Falcon-H1-7B-Instruct": ("falcon-h1", falcon_h1),
    "Qwen/Qwen3.5-27B": ("qwen35", delta),
    "XiaomiMiMo/MiMo-V2-Flash": ("mimo2", mimo),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("nemotron_h_moe", nemotron),
}


def kinds(model: Model) -> list[tuple[Kind, ...]]:
    """What each layer keeps, without the names of blocks."""
    return [tuple(model.blocks[name] for name in names) for names in model.layers]


def written(path: Path, architecture: str, write: Callable[[Writer, Config], None], text: Config) -> Path:
    """A file of the package: metadata, a small vocabulary and two tensors."""
    out = gguf.GGUFWriter(path, architecture)
    write(out, text)
    out.add_tokenizer_model("gpt2")
    out.add_token_list([f"token-{index}" for index in range(1000)])
    out.add_tensor("token_embd.weight", np.zeros((16, 64), dtype=np.float32))
    out.add_tensor("output.weight", np.zeros((16, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.mark.parametrize("repo", TWINS)
def test_a_file_is_the_model_of_its_config(repo: str, tmp_path: Path) -> None:
    """Layer by layer the same kinds, and the same limits; weights and vocabulary from the file itself."""
    architecture, write = TWINS[repo]
    config = config_of(repo)
    text = text_of(config)
    imported = import_gguf(written(tmp_path / "m.gguf", architecture, write, text))
    model, twin = model_from_document(imported.document), model_from_document(import_config(config).document)
    assert kinds(model) == kinds(twin)
    assert model.hidden_size == twin.hidden_size
    if architecture != "mamba":
        assert model.max_context == twin.max_context
    assert model.vocab_size == 1000
    assert model.parameters == 16 * 64 + 16 * 32
    assert model.weights is not None
    assert model.weights.bytes == 16 * 64 * 4 + 16 * 34


def test_the_package_s_reader_agrees(tmp_path: Path) -> None:
    """Every key, every value, every tensor of one file."""
    text = text_of(config_of("LiquidAI/LFM2-2.6B"))
    path = written(tmp_path / "m.gguf", "lfm2", short_conv, text)
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert set(fields) == set(ours.metadata)
    for key, field in fields.items():
        mine, value = ours.metadata[key], field.contents()
        assert mine == Skipped(len(value)) if isinstance(mine, Skipped) else mine == (
            tuple(value) if isinstance(value, list) else value
        )  # fmt: skip
    assert ours.tensors.count == len(theirs.tensors)
    assert ours.tensors.elements == sum(int(tensor.n_elements) for tensor in theirs.tensors)
    assert ours.tensors.bytes == sum(int(tensor.n_bytes) for tensor in theirs.tensors)


def test_block_sizes_are_the_package_s() -> None:
    """Each type's block, as the package has it; but for q8_1, which no file stores (36 bytes in ggml-common.h)."""
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items() if kind.name != "Q8_1"}
    assert theirs.items() <= BLOCKS.items()


def test_it_is_quick_where_the_package_is_not(tmp_path: Path) -> None:
    """A vocabulary of 200,000: a tenth of the package's time at most."""
    path = tmp_path / "m.gguf"
    out = gguf.GGUFWriter(path, "llama")
    plain(out, text_of(config_of("meta-llama/Llama-3.1-8B-Instruct")))
    out.add_token_list([f"token-{index}" for index in range(200_000)])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    out.close()
    start = time.process_time()
    assert import_gguf(path).document["vocab_size"] == 200_000
    ours = time.process_time() - start
    start = time.process_time()
    gguf.GGUFReader(path)
    assert ours * 10 < time.process_time() - start
