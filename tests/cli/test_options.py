"""What each option changes, in bytes that follow from the model's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calling import Call
from sound import TINY

GIB = 2**30
#: Llama-3-8B: 32 layers of 8 KV heads of 128 for K and V, 2 bytes each.
LLAMA3 = 32 * 2 * 8 * 128 * 2


@pytest.fixture
def size(call: Call) -> Any:
    """The answer of `kvcalc size ... --json`."""

    def run(*arguments: str) -> dict[str, Any]:
        done = call("size", *arguments, "--json")
        assert (done.code, done.err) == (0, "")
        return done.answer

    return run


@pytest.mark.parametrize(
    ("context", "tokens"),
    [
        ("8192", 8192),
        ("8k", 8192),
        ("128K", 131072),
        ("1m", 2**20),
        ("1.5k", 1536),
        ("131,072", 131072),
        ("4_096", 4096),
    ],
)
def test_context(size: Any, context: str, tokens: int) -> None:
    """Contexts as people write them; k is 1024."""
    answer = size("llama3", "-c", context)
    assert answer["inputs"]["context_tokens"] == tokens
    assert answer["total_bytes"] == tokens * LLAMA3


def test_sessions(size: Any) -> None:
    """Sessions multiply the total, not the cost of one."""
    answer = size("llama3", "-c", "8k", "-n", "7")
    assert answer["total_bytes"] == 7 * 8192 * LLAMA3
    assert answer["per_session_bytes"] == 8192 * LLAMA3


@pytest.mark.parametrize(
    ("dtype", "per_token"),
    [
        ("fp8", LLAMA3 // 2),
        ("fp32", LLAMA3 * 2),
        ("q8_0", 32 * 2 * 8 * 128 * 34 // 32),
        ("k=fp32", 32 * 8 * 128 * (4 + 2)),
        ("v=fp8", 32 * 8 * 128 * (2 + 1)),
        ("k=q8_0,v=q4_0", 32 * 8 * 128 * (34 + 18) // 32),
        ("v=q4_0,k=q8_0", 32 * 8 * 128 * (34 + 18) // 32),
        ("nvfp4", 32 * 2 * 8 * 128 * 9 // 16),
    ],
)
def test_kv_dtype(size: Any, dtype: str, per_token: int) -> None:
    """K and V in another type, together or apart, with the bytes of its scales."""
    assert size("llama3", "-c", "8k", "--kv-dtype", dtype)["total_bytes"] == 8192 * per_token


def test_state_dtype(size: Any) -> None:
    """--state-dtype changes the recurrent states; convolution tails stay in the model's type, KV too."""
    # Qwen3-Next-80B: 36 layers with 32 value heads of 128 x 128, a tail of 3 x (2 x 16 x 128 + 32 x 128).
    states, tails = 36 * 32 * 128 * 128, 36 * 3 * (2 * 16 * 128 + 32 * 128) * 2
    assert size("qwen3-next-80b")["fixed_bytes_per_session"] == states * 4 + tails
    answer = size("qwen3-next-80b", "--state-dtype", "bf16")
    assert answer["fixed_bytes_per_session"] == states * 2 + tails
    assert answer["inputs"]["state_dtype"] == "bfloat16"


def test_index_dtype(size: Any) -> None:
    """--index-dtype changes the indexer's keys and nothing else; --kv-dtype leaves them."""
    # DeepSeek-V3.2: 61 layers of 512 + 64 latent elements and an indexer key of 128.
    assert size("deepseek-v3.2")["marginal_bytes_per_token"] == 61 * (576 + 128) * 2
    assert size("deepseek-v3.2", "--index-dtype", "fp8")["marginal_bytes_per_token"] == 61 * (576 * 2 + 128)
    assert size("deepseek-v3.2", "--kv-dtype", "fp8")["marginal_bytes_per_token"] == 61 * (576 + 128 * 2)


def test_encoder_tokens(size: Any) -> None:
    """Cross attention grows with the encoder: its fixed length where the config says it, else what was asked."""
    # Whisper-large-v3: 32 decoder layers, 20 heads of 64, K and V, for the decoder's and the encoder's tokens.
    each = 32 * 2 * 20 * 64 * 2
    answer = size("whisper-large-v3", "-c", "448")
    assert answer["total_bytes"] == (448 + 1500) * each
    assert "encoder of 1,500 tokens (max_source_positions of the config)" in answer["assumptions"]
    assert size("whisper-large-v3", "-c", "448", "--encoder-tokens", "100")["total_bytes"] == (448 + 100) * each
    assert size("whisper-large-v3", "-c", "448", "--encoder-tokens", "0")["total_bytes"] == 448 * each


@pytest.mark.parametrize(("tp", "copies"), [(1, 1), (2, 1), (8, 1), (16, 2), (32, 4)])
def test_tp_divides_heads_then_replicates(size: Any, tp: int, copies: int) -> None:
    """8 KV heads on up to 8 ranks are divided; on more, each rank keeps a whole head."""
    answer = size("llama3", "-c", "8k", "--tp", str(tp))
    assert answer["total_bytes"] == copies * 8192 * LLAMA3
    assert [rank["bytes"] for rank in answer["ranks"]] == [copies * 8192 * LLAMA3 // tp] * tp
    assert answer["per_session_bytes"] == 8192 * LLAMA3


def test_tp_replicates_latents(size: Any) -> None:
    """MLA has no head axis: every rank keeps all of it."""
    answer = size("deepseek-v2", "-c", "8k", "--tp", "8")
    assert {rank["bytes"] for rank in answer["ranks"]} == {8192 * 69120}


def test_tp_shards_states(size: Any) -> None:
    """Recurrent state heads and channels divide over TP."""
    whole, half = size("falcon-mamba-7b"), size("falcon-mamba-7b", "--tp", "2")
    assert half["total_bytes"] == whole["total_bytes"]
    assert [rank["bytes"] for rank in half["ranks"]] == [whole["total_bytes"] // 2] * 2


def test_uneven_tp_is_warned_about(size: Any) -> None:
    """A degree that does not divide the heads is priced and said to be refused by engines."""
    assert any("tp 3 does not divide" in warning for warning in size("llama3", "--tp", "3")["warnings"])


def test_pp_divides_layers(size: Any) -> None:
    """Pipeline stages hold their layers: 32 over 3 is 11, 11, 10."""
    answer = size("llama3", "-c", "8k", "--pp", "3")
    layer = 8192 * LLAMA3 // 32
    assert [rank["bytes"] for rank in answer["ranks"]] == [11 * layer, 11 * layer, 10 * layer]


def test_dp_divides_sessions(size: Any) -> None:
    """Data-parallel replicas share the sessions: 5 over 2 is 3 and 2."""
    answer = size("llama3", "-c", "8k", "-n", "5", "--dp", "2")
    assert [rank["bytes"] for rank in answer["ranks"]] == [3 * 8192 * LLAMA3, 2 * 8192 * LLAMA3]


def test_dcp_divides_tokens(size: Any) -> None:
    """Decode context parallelism divides what TP would replicate."""
    answer = size("deepseek-v2", "-c", "8k", "--tp", "8", "--dcp", "8")
    assert {rank["bytes"] for rank in answer["ranks"]} == {1024 * 69120}


def test_engine_is_echoed(size: Any) -> None:
    """The engine, its version and how it is proved travel with the number."""
    engine = size("llama3", "-e", "ideal@1")["engine"]
    assert (engine["name"], engine["version"]) == ("ideal", "1")
    assert engine["verified_by"]


def test_context_beyond_the_model_is_warned_about(size: Any) -> None:
    """A context above the model's own limit is computed, with a warning."""
    warnings = size("llama3", "-c", "128k")["warnings"]
    assert warnings == ["context 131,072 is beyond the model's own 8,192"]


def test_fit_on_a_pool(call: Call) -> None:
    """--pool skips the ledger: 1 GiB holds exactly 8192 tokens of Llama-3-8B, and one byte less does not."""
    done = call("fit", "llama3", "--pool", "1GiB", "-c", "8192", "--json")
    assert done.code == 0
    answer = done.answer
    assert (answer["fits"], answer["max_context_tokens"], answer["max_sessions"]) == (True, 8192, 1)
    line = {"bytes": GIB, "low_bytes": GIB, "high_bytes": GIB, "source": "user", "detail": "--pool"}
    assert answer["ledger"] == [{"item": "pool", **line, "exactness": "exact"}]
    assert answer["exactness"] == "exact"
    done = call("fit", "llama3", "--pool", str(GIB - 1), "-c", "8192", "--json")
    assert done.code == 1
    assert (done.answer["fits"], done.answer["max_context_tokens"], done.answer["max_sessions"]) == (False, 8191, 0)
    assert done.answer["binding_limit"] == "memory"


def test_fit_says_what_is_short(call: Call) -> None:
    """Exit 1 comes with the verdict on stdout, and nothing on stderr: it is an answer, not an error."""
    done = call("fit", "llama3", "--pool", "512MiB", "-c", "8192")
    assert (done.code, done.err) == (1, "")
    assert "DOES NOT FIT: 1.00 GiB needed per GPU, 512.0 MiB left (512.0 MiB short)" in done.out
    assert "FITS: 0 B to spare per GPU" in call("fit", "llama3", "--pool", "1GiB", "-c", "8192").out


def test_fit_where_the_weights_do_not(call: Call) -> None:
    """Weights larger than the GPU: exit 1, a negative pool and the reason, no context at all."""
    done = call("fit", "llama3-70b", "--gpu", "rtx-4090", "--tp", "1", "--json")
    assert done.code == 1
    assert done.answer["binding_limit"] == "weights"
    assert done.answer["pool_bytes"] < 0
    assert done.answer["max_context_tokens"] == 0
    text = call("fit", "llama3-70b", "--gpu", "rtx-4090", "--tp", "1").out
    assert "DOES NOT FIT: weights and overhead exceed each GPU by" in text


def test_ledger_sums_to_the_pool(call: Call) -> None:
    """The lines of the ledger sum to the pool; --overhead replaces the estimate to the byte."""
    answer = call("fit", "llama3", "--gpu", "h100-80gb", "--json").answer
    assert sum(line["bytes"] for line in answer["ledger"]) == answer["pool_bytes"]
    assert answer["ledger"][-1]["exactness"] == "estimate"
    answer = call("fit", "llama3", "--gpu", "h100-80gb", "--overhead", "3GiB", "--json").answer
    assert answer["ledger"][-1] == {
        "item": "overhead", "bytes": -3 * GIB, "low_bytes": -3 * GIB, "high_bytes": -3 * GIB,
        "source": "user", "detail": "--overhead", "exactness": "exact",
    }  # fmt: skip
    # nvidia-smi of the H100 80GB says 81559 MiB; 8,030,261,248 parameters of 2 bytes.
    assert answer["pool_bytes"] == 81559 * 2**20 - 2 * 8030261248 - 3 * GIB


def test_weight_dtype(call: Call) -> None:
    """--weight-dtype prices the parameters in another type; embeddings (128,256 x 4,096, twice) stay in 16 bits."""
    answer = call("fit", "llama3", "--gpu", "h100-80gb", "--weight-dtype", "fp8", "--json").answer
    assert answer["ledger"][1]["bytes"] == -8030261248 - 2 * 128256 * 4096
    assert answer["ledger"][1]["exactness"] == "estimate"


@pytest.mark.parametrize(
    ("arguments", "layout"),
    [
        (["--gpu", "h200:8"], {"tp": 8, "pp": 1, "dp": 1, "dcp": 1}),
        (["--gpu", "H200 141GB:8", "--pp", "2"], {"tp": 4, "pp": 2, "dp": 1, "dcp": 1}),
        (["--gpu", "h200:8", "--dp", "4"], {"tp": 2, "pp": 1, "dp": 4, "dcp": 1}),
        (["--gpu", "h200:8", "--tp", "4", "--pp", "2"], {"tp": 4, "pp": 2, "dp": 1, "dcp": 1}),
        (["--gpu", "h200", "--tp", "4", "--pp", "2"], {"tp": 4, "pp": 2, "dp": 1, "dcp": 1}),
    ],
)
def test_gpu_count(call: Call, arguments: list[str], layout: dict[str, int]) -> None:
    """NAME:N spends N GPUs: on TP unless other degrees take their share."""
    answer = call("fit", "llama3-70b", *arguments, "--json").answer
    assert answer["layout"] == {**layout, "ep": 1}
    assert answer["gpu"]["count"] == layout["tp"] * layout["pp"] * layout["dp"]
    assert len(answer["ranks"]) == answer["gpu"]["count"]


def test_unlimited(call: Call) -> None:
    """A cache that does not grow has no longest context: null in JSON, a word for people."""
    answer = call("fit", "mamba-2.8b", "--pool", "1GiB", "--json").answer
    assert answer["max_context_tokens"] is None
    assert answer["binding_limit"] == "none"
    assert "unlimited" in call("fit", "mamba-2.8b", "--pool", "1GiB").out


def test_explained_terms_sum_to_the_rank(call: Call) -> None:
    """The terms of `explain` sum to the fullest rank's bytes, each with its source."""
    answer = call("explain", "qwen3-next-80b", "-c", "128k", "--tp", "2", "--json").answer
    assert sum(term["bytes"] for term in answer["terms"]) == answer["rank_bytes"]
    assert answer["rank_bytes"] == max(rank["bytes"] for rank in answer["ranks"])
    assert all(term["source"] for term in answer["terms"])
    for term in answer["terms"]:
        assert term["layers"] * term["sessions"] * term["slots"] * term["bytes_per_slot"] == term["bytes"]


def test_components_sum_to_the_total(call: Call) -> None:
    """The components of `size` sum to the total over all ranks."""
    answer = call("size", "gemma3-27b", "-c", "128k", "-n", "3", "--tp", "4", "--pp", "2", "--json").answer
    assert sum(row["bytes"] for row in answer["components"]) == answer["total_bytes"]
    assert sum(rank["bytes"] for rank in answer["ranks"]) == answer["total_bytes"]


@pytest.mark.parametrize("how", ["option", "environment"])
def test_models_directory(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Files of --models-dir (or KVCALC_MODELS) are models by name and alias, and win over shipped ones."""
    (tmp_path / "one.yaml").write_text(TINY + "aliases: [my tiny]\n")
    (tmp_path / "two.yml").write_text(TINY.replace("name: tiny", "name: llama-3-8b"))
    options = ["--models-dir", str(tmp_path)] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("KVCALC_MODELS", str(tmp_path))
    for name in ("tiny", "my-tiny", "MY_TINY", "llama-3-8b", "Llama 3 8B"):
        assert call("size", name, *options, "--json").answer["marginal_bytes_per_token"] == 4 * 2 * 2 * 16 * 2
    assert call("size", "deepseek-v2", *options).code == 0
    names = [row["name"] for row in call("models", *options, "--json").answer["results"]]
    assert names.count("llama-3-8b") == names.count("tiny") == 1


def test_a_path_is_a_target(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, a file without suffix, a folder with config.json: all are targets; a shipped name wins over a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "tinyfile").write_text(TINY)
    (tmp_path / "checkpoint").mkdir()
    config = (
        '{"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, '
        '"head_dim": 16, "hidden_size": 128, "torch_dtype": "bfloat16", "vocab_size": 100, '
        '"max_position_embeddings": 4096}'
    )
    (tmp_path / "checkpoint" / "config.json").write_text(config)
    (tmp_path / "llama3").mkdir()
    for target in ("tiny.yaml", "./tiny.yaml", "tinyfile", "checkpoint", "checkpoint/config.json"):
        answer = call("size", target, "--json").answer
        assert answer["marginal_bytes_per_token"] == 4 * 2 * 2 * 16 * 2
    assert call("size", "llama3", "--json").answer["model"]["origin"] == "registry:llama3"
    assert call("size", "./llama3").code == 3


@pytest.mark.parametrize("word", ["qwen3", "Qwen3-Next", "QWEN3 NEXT 80B"])
def test_models_are_found_by_word(call: Call, word: str) -> None:
    """`models WORD` forgives case and punctuation."""
    names = [row["name"] for row in call("models", word, "--json").answer["results"]]
    assert "qwen3-next-80b-a3b" in names
    assert all("qwen3" in name for name in names)


def test_nothing_found_is_an_empty_list(call: Call) -> None:
    """A word that no name has: an empty answer, not an error."""
    for command in ("models", "gpus"):
        done = call(command, "qqqq", "--json")
        assert (done.code, done.answer["results"]) == (0, [])


def test_variants_of_a_latent_model(call: Call) -> None:
    """`variants` of an MLA model uses the head dims its latent expands to; options change the shapes."""
    answer = call(
        "variants", "deepseek-v2", "--pool", "64GiB", "--latent-dim", "256", "--rope-dim", "32", "--json"
    ).answer
    rows = {row["variant"]: row for row in answer["results"]}
    # 60 layers of 128 heads: K 128 + 64, V 128.
    assert rows["mha"]["marginal_bytes_per_token"] == 60 * 128 * (192 + 128) * 2
    assert rows["mqa"]["marginal_bytes_per_token"] == 60 * (192 + 128) * 2
    assert rows["mla 256+32"]["marginal_bytes_per_token"] == 60 * (256 + 32) * 2
    assert rows["as shipped"]["marginal_bytes_per_token"] == 69120
