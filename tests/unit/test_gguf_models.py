"""What a GGUF header means: which layers keep what, by the rules of llama.cpp's loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_bytes import TensorInfo, gguf_bytes

from kvcalc.core.model import Model
from kvcalc.document import document_from_model, model_from_document
from kvcalc.errors import ModelFileError
from kvcalc.importers.gguf import import_gguf
from kvcalc.schema import check_document
from kvcalc.targets import load_path

BASE = {"context_length": 8192, "embedding_length": 512, "block_count": 6, "attention.head_count": 8}
MLA = {
    "attention.kv_lora_rank": 96, "attention.key_length": 128, "attention.value_length": 96,
    "attention.key_length_mla": 96, "attention.value_length_mla": 64, "attention.head_count_kv": 1,
}  # fmt: skip
SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 1024, "ssm.state_size": 64, "ssm.time_step_rank": 16}


def written(folder: Path, architecture: str, keys: dict[str, Any], tensors: list[TensorInfo] | None = None) -> Path:
    head = {"general.architecture": architecture, **{f"{architecture}.{key}": v for key, v in (BASE | keys).items()}}
    path = folder / "m.gguf"
    path.write_bytes(gguf_bytes(head, tensors or []))
    return path


def model(folder: Path, architecture: str, keys: dict[str, Any], tensors: list[TensorInfo] | None = None) -> Model:
    """The model of the file, which the schema accepts too and which is written and read back unchanged."""
    document = import_gguf(written(folder, architecture, keys, tensors)).document
    found = check_document(document, file="m.gguf")
    assert model_from_document(document) == found  # what is imported is not shown to the schema any more
    assert model_from_document(document_from_model(found)) == found
    return found


def tags(found: Model) -> list[str]:
    """The kind of each layer, with its window."""
    rows = []
    for names in found.layers:
        kinds = [found.blocks[name] for name in names]
        rows.append("+".join(kind.kind + (f"@{w}" if (w := getattr(kind, "window", None)) else "") for kind in kinds))
    return rows


def test_per_layer_arrays_are_read_layer_by_layer(tmp_path: Path) -> None:
    """Every entry of head_count and head_count_kv counts, not the first; a layer without KV heads keeps nothing."""
    heads, groups = [8, 8, 0, 8, 8, 8], [8, 1, 0, 2, 4, 8]
    found = model(tmp_path, "deci", {"attention.head_count": heads, "attention.head_count_kv": groups})
    assert tags(found) == ["mha", "mqa", "none", "gqa", "gqa", "mha"]
    kept = [sum(part.elements_per_slot for part in found.blocks[names[0]].lower()) for names in found.layers]
    assert kept == [2 * count * 64 for count in groups]


@pytest.mark.parametrize("count", [5, 7])
def test_an_array_of_another_length_is_refused(count: int, tmp_path: Path) -> None:
    """llama.cpp refuses it too: "wrong array length"."""
    with pytest.raises(ModelFileError, match=f"has {count} elements for 6 layers"):
        model(tmp_path, "llama", {"attention.head_count_kv": [2] * count})


def test_absent_keys_mean_what_the_loader_makes_of_them(tmp_path: Path) -> None:
    """No head_count_kv: as many as query heads. No key_length: embedding / heads, in layer 0."""
    assert import_gguf(written(tmp_path, "llama", {})).document["attention"] == {
        "kind": "mha", "heads": 8, "head_dim": 64
    }  # fmt: skip


def test_windows_that_a_loader_ignores_are_no_windows(tmp_path: Path) -> None:
    """llama (Mistral), qwen2 and phi3 never slide, whatever the file says."""
    for name in ("llama", "qwen2", "phi3"):
        assert tags(model(tmp_path, name, {"attention.sliding_window": 128})) == ["mha"] * 6


def test_patterns_come_from_the_loader_where_the_file_has_none(tmp_path: Path) -> None:
    """gemma2 every second, gemma3 every sixth, smallthinker the first of four; what the file says wins."""
    slide = {"attention.sliding_window": 128}
    assert tags(model(tmp_path, "gemma2", slide)) == ["mha@128", "mha"] * 3
    assert tags(model(tmp_path, "gemma2", {})) == ["mha@4096", "mha"] * 3
    assert tags(model(tmp_path, "gemma3", slide)) == ["mha@128"] * 5 + ["mha"]
    assert tags(model(tmp_path, "gemma3", {})) == ["mha"] * 6
    assert tags(model(tmp_path, "gemma3", slide | {"attention.sliding_window_pattern": 3})) == [
        "mha@128", "mha@128", "mha"
    ] * 2  # fmt: skip
    first = ["mha", "mha@4096", "mha@4096", "mha@4096", "mha", "mha@4096"]
    assert tags(model(tmp_path, "smallthinker", slide)) == first
    assert tags(model(tmp_path, "gemma3", slide | {"attention.sliding_window_pattern": 0})) == ["mha@128"] * 6
    flags = [True, False, False, False, False, True]
    wanted = ["mha@128" if flag else "mha" for flag in flags]
    assert tags(model(tmp_path, "gemma3", slide | {"attention.sliding_window_pattern": flags})) == wanted
    with pytest.raises(ModelFileError, match="one entry per layer"):
        model(tmp_path, "mimo2", slide)
    with pytest.raises(ModelFileError, match="sliding_window is missing"):
        model(tmp_path, "gpt-oss", {})


def test_llama_4_is_chunked_by_8192_unless_switched_off(tmp_path: Path) -> None:
    """The file's number is ignored, its 0 is not."""
    found = model(tmp_path, "llama4", {"attention.sliding_window": 512})
    assert [getattr(found.blocks[names[0]], "chunk", None) for names in found.layers] == [8192] * 3 + [None] + [
        8192
    ] * 2
    assert tags(model(tmp_path, "llama4", {"attention.sliding_window": 0})) == ["mha"] * 6


def test_sliding_layers_have_their_own_head_dims(tmp_path: Path) -> None:
    """gemma4: key_length_swa where it slides; the last layers share, each with the last layer of its own sort."""
    keys = {
        "attention.sliding_window": 128, "attention.sliding_window_pattern": [1, 1, 0, 1, 1, 0],
        "attention.key_length": 128, "attention.value_length": 128, "attention.key_length_swa": 32,
        "attention.value_length_swa": 32, "attention.shared_kv_layers": 3,
    }  # fmt: skip
    found = model(tmp_path, "gemma4", keys)
    assert [getattr(found.blocks[names[0]], "head_dim", None) for names in found.layers[:3]] == [32, 32, 128]
    assert tags(found)[3:] == ["shared"] * 3
    targets = [found.blocks[names[0]].of for names in found.layers[3:]]  # type: ignore[attr-defined]
    assert targets == [found.layers[1][0]] * 2 + [found.layers[2][0]]
    with pytest.raises(ModelFileError, match="leaves 1 layers"):
        model(tmp_path, "gemma4", keys | {"attention.shared_kv_layers": 5})


def test_mla_needs_both_mla_keys(tmp_path: Path) -> None:
    """With them one latent row; an old file without them keeps a key and a value per head."""
    found = model(tmp_path, "deepseek2", MLA)
    assert document_from_model(found)["attention"] == {
        "kind": "mla", "heads": 8, "latent_dim": 96, "rope_dim": 32, "nope_dim": 64, "v_head_dim": 64
    }  # fmt: skip
    old = {"attention.key_length": 96, "attention.value_length": 64, "attention.kv_lora_rank": 96}
    assert document_from_model(model(tmp_path, "deepseek2", old))["attention"] == {
        "kind": "mha", "heads": 8, "head_dim": 96, "v_head_dim": 64
    }  # fmt: skip
    with pytest.raises(ModelFileError, match="must be 1"):
        model(tmp_path, "deepseek2", MLA | {"attention.head_count_kv": 2})
    with pytest.raises(ModelFileError, match="below kv_lora_rank"):
        model(tmp_path, "deepseek2", MLA | {"attention.key_length": 64})


def test_recurrent_layers_by_each_family_s_rule(tmp_path: Path) -> None:
    """By KV heads, by interval, by array, by feed-forward length, or all of them."""
    groups = {"attention.head_count_kv": [0, 2, 0, 0, 2, 0]}
    assert tags(model(tmp_path, "jamba", SSM | groups)) == ["mamba1", "gqa", "mamba1", "mamba1", "gqa", "mamba1"]
    two = SSM | {"ssm.group_count": 2}
    granite = ["mamba2", "gqa", "mamba2", "mamba2", "gqa", "mamba2"]
    assert tags(model(tmp_path, "granitehybrid", two | groups)) == granite
    assert tags(model(tmp_path, "qwen35", two)) == (["gated_deltanet"] * 3 + ["mha"]) + ["gated_deltanet"] * 2
    listed = {"attention.recurrent_layers": [0, 1, 1, 0, 1, 0]}
    wanted = ["mha" if not flag else "gated_deltanet" for flag in listed["attention.recurrent_layers"]]
    assert tags(model(tmp_path, "qwen35", two | listed)) == wanted
    dense = {"feed_forward_length": [0, 0, 64, 0, 0, 64], "attention.head_count_kv": [0, 2, 0, 0, 2, 0]}
    assert tags(model(tmp_path, "nemotron_h", two | dense)) == ["mamba2", "gqa", "none", "mamba2", "gqa", "none"]
    assert tags(model(tmp_path, "falcon-h1", two)) == ["mha+mamba2"] * 6
    assert tags(model(tmp_path, "mamba", SSM | {"attention.head_count": 0})) == ["mamba1"] * 6
    with pytest.raises(ModelFileError, match="no multiple"):
        model(tmp_path, "mamba2", two | {"attention.head_count": 0, "ssm.inner_size": 1000})
    with pytest.raises(ModelFileError, match="at least 1"):
        model(tmp_path, "qwen35", two | {"full_attention_interval": 0})


def test_indexers_and_who_shares_them(tmp_path: Path) -> None:
    """deepseek32 indexes every layer, glm-dsa those listed, GLM-5.2 by its rule, minimax-m3 after the dense ones."""
    keys = MLA | {"attention.indexer.key_length": 64}

    def owners(name: str, extra: dict[str, Any]) -> list[bool | None]:
        found = model(tmp_path, name, keys | extra)
        indexers = [getattr(found.blocks[names[0]], "indexer", None) for names in found.layers]
        return [None if indexer is None else not indexer.shared for indexer in indexers]

    assert owners("deepseek32", {}) == [True] * 6
    assert owners("glm-dsa", {"attention.indexer.types": [1, 1, 0, 0, 1, 0]}) == [True, True, False, False, True, False]
    assert owners("glm-dsa", {"context_length": 1048576, "block_count": 8}) == [
        True, True, True, False, False, False, True, False
    ]  # fmt: skip
    assert (
        owners("minimax-m3", {"leading_dense_block_count": 2, "attention.head_count_kv": 2}) == [None] * 2 + [True] * 4
    )


def test_mtp_layers_are_set_aside(tmp_path: Path) -> None:
    """nextn_predict_layers at the end are no layers of the main context; more than there are is refused."""
    found = model(tmp_path, "glm4moe", {"nextn_predict_layers": 1, "attention.head_count_kv": 2})
    assert len(found.layers) == 5
    assert found.mtp is not None
    assert (found.mtp.layers, found.blocks[found.mtp.block].kind) == (1, "gqa")
    with pytest.raises(ModelFileError, match="of 6 layers"):
        model(tmp_path, "glm4moe", {"nextn_predict_layers": 7})


def test_deepseek_v4_counts_mtp_layers_without_weights_as_ordinary(tmp_path: Path) -> None:
    """Its loader looks for the weights of the MTP layers, not only for the key."""
    keys = {
        "nextn_predict_layers": 1, "attention.head_count_kv": 1, "attention.key_length": 128,
        "attention.value_length": 128, "attention.sliding_window": 128, "attention.indexer.key_length": 64,
        "attention.compress_ratios": [0, 4, 128, 4, 128, 0],
    }  # fmt: skip
    assert tags(model(tmp_path, "deepseek4", keys)) == [
        "mqa@128",
        "csa@128",
        "hca@128",
        "csa@128",
        "hca@128",
        "mqa@128",
    ]
    weights = [TensorInfo("blk.5.nextn.eh_proj.weight", (64, 64), 0)]
    found = model(tmp_path, "deepseek4", keys, weights)
    assert len(found.layers) == 5
    assert found.mtp is not None
    with pytest.raises(ModelFileError, match="every layer"):
        model(tmp_path, "deepseek4", keys | {"attention.compress_ratios": [0, 4]})


def test_the_n_gram_convolution_of_qwen4_is_a_state_beside_the_state(tmp_path: Path) -> None:
    """ple.layers names the layer: (kernel - 1) inputs of ngram_size x hyper connections x embedding."""
    ple = {
        "ple.layers": [1], "ple.ngram_size": 3, "ple.conv_kernel": 4, "hyper_connection.count": 4,
        "attention.indexer.key_length": 64,
    }  # fmt: skip
    found = model(tmp_path, "qwen4exp", SSM | {"ssm.group_count": 2} | ple)
    assert tags(found)[:3] == ["gated_deltanet", "gated_deltanet+short_conv", "gated_deltanet"]
    (conv,) = found.blocks[found.layers[1][1]].lower()
    assert (conv.law.slots(1), conv.elements_per_slot) == (3, 3 * 4 * 512)


def test_models_without_a_cache(tmp_path: Path) -> None:
    """Encoders and diffusion models keep nothing."""
    assert tags(model(tmp_path, "modern-bert", {})) == ["none"] * 6
    assert model(tmp_path, "llada", {}).facts["is_causal"] is False


@pytest.mark.parametrize(
    ("architecture", "keys", "words"),
    [
        ("clip", {}, "image projector"),
        ("no-such-thing", {}, "none that llama.cpp"),
        ("llama", {"block_count": 0}, "at least 1"),
        ("llama", {"block_count": 513}, "above llama.cpp's 512"),
        ("llama", {"block_count": "six"}, "whole number"),
        ("llama", {"context_length": -1}, "outside 0 to"),
        ("llama", {"attention.head_count": [0, 8, 8, 8, 8, 8]}, "heads of no width"),
        ("llama", {"attention.head_count": [1.5] * 6}, "whole numbers"),
        ("llama", {"attention.causal": 1}, "true or false"),
        ("llama", {"attention.head_count": [8] * 5000}, "has 5,000 elements"),
        ("qwen35", SSM | {"ssm.group_count": 2, "ssm.inner_size": 1000}, "value heads"),
        ("minicpm3", MLA | {"rope.dimension_count": 32}, "expanded MLA"),
        ("deepseek4", {"attention.sliding_window": 8, "attention.compress_ratios": [0] * 6}, "must be 1"),
        ("mamba", {"attention.head_count": 0}, "ssm.conv_kernel is missing"),
        ("rwkv7", {"attention.head_count": 0, "wkv.head_size": 60}, "no multiple"),
    ],
)
def test_impossible_files_are_refused_with_the_key(
    architecture: str, keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """The key at fault and its value are named; the file too."""
    with pytest.raises(ModelFileError, match=words) as caught:
        model(tmp_path, architecture, keys)
    assert caught.value.file


def test_a_gguf_is_a_target(tmp_path: Path) -> None:
    """The command line's loader reads it, by suffix or by magic, and says what was derived."""
    path = written(tmp_path, "gemma3", {"attention.sliding_window": 128, "attention.head_count_kv": 4})
    plain = path.rename(tmp_path / "blob")
    target = load_path(str(plain))
    assert target.model.facts["gguf_architecture"] == "gemma3"
    assert any("slide" in text for text in target.assumptions)
