"""What the importer does not understand it refuses, with file, key, value and fix; nothing else ever escapes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hf_fixtures import LLAMA, config_of, rows
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.document import model_from_document
from kvcalc.errors import KvcalcError, ModelFileError
from kvcalc.importers.hf import import_config

PLAIN_STRANGER = LLAMA | {"model_type": "brand_new_llm", "architectures": ["BrandNewForCausalLM"]}


def test_an_unmistakable_plain_decoder_is_read_and_labelled() -> None:
    """Unknown model_type, usual keys: a number, a warning, and exact is False."""
    found = import_config(PLAIN_STRANGER)
    assert found.document["attention"] == {"kind": "gqa", "heads": 32, "groups": 8, "head_dim": 128}
    assert found.exact is False
    assert any("unknown" in line for line in found.warnings)


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["BrandNewForConditionalGeneration"]},
        {"architectures": None},
        {"num_key_value_heads": None},
        {"kv_lora_rank": 512},
        {"sliding_window": 4096},
        {"layer_types": ["full_attention"] * 32},
        {"ssm_state_size": 16},
        {"full_attention_interval": 4},
        {"num_kv_shared_layers": 2},
        {"hybrid_override_pattern": "M*" * 16},
        {"linear_attn_config": {"head_dim": 128}},
        {"attention_chunk_size": 8192},
        {"cross_attention_layers": [3]},
        {"block_configs": [{}]},
        {"index_head_dim": 128},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_stranger_with_a_hint_of_another_cache_is_refused(change: dict[str, Any]) -> None:
    """One key is enough to doubt."""
    with pytest.raises(ModelFileError, match="unknown model_type"):
        import_config(PLAIN_STRANGER | change)


def test_an_unknown_layer_type_names_layer_and_key() -> None:
    """Layer 2 of layer_types."""
    types = ["full_attention", "sliding_attention", "quantum_attention", "full_attention"]
    config = LLAMA | {"model_type": "gpt_oss", "num_hidden_layers": 4, "sliding_window": 128, "layer_types": types}
    with pytest.raises(ModelFileError, match=r"layer 2 .*quantum_attention") as caught:
        import_config(config, file="x/config.json")
    assert caught.value.field == "layer_types[2]"
    assert caught.value.file == "x/config.json"


@pytest.mark.parametrize(
    ("repo", "change", "message"),
    [
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", {"hybrid_override_pattern": "M*XE"}, "layer 2 .*'X'"),
        ("deepseek-ai/DeepSeek-V4-Flash", {"compress_ratios": [0, 4, 7] + [4] * 41}, "layer 2 .*ratio 7"),
        ("zai-org/GLM-5.3", {"indexer_types": ["full"] * 77 + ["half"]}, "layer 77 .*half"),
        ("openai/gpt-oss-20b", {"layer_types": ["full_attention"] * 23}, "23 layers"),
        ("openai/gpt-oss-20b", {"sliding_window": None}, "sliding_window"),
        ("openai/gpt-oss-20b", {"layer_types": "full_attention"}, "must be a list"),
        ("tiiuae/falcon-mamba-7b", {"conv_kernel": 1}, "outside 2"),
        ("google/recurrentgemma-2b", {"block_types": ["recurrent", "moonwalk"]}, "layer 1 .*moonwalk"),
        (
            "nvidia/Llama-3_3-Nemotron-Super-49B-v1",
            {"block_configs": [{"attention": {"n_heads_in_group": 7}}] * 80},
            "7",
        ),
        ("google/gemma-4-31B-it", {"text_config": 7}, "must be an object"),
    ],
)
def test_a_contradiction_is_refused(repo: str, change: dict[str, Any], message: str) -> None:
    """Lists of the wrong length, unknown letters, impossible widths."""
    with pytest.raises(ModelFileError, match=message):
        import_config(config_of(repo) | change)


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size"])
@pytest.mark.parametrize(
    "value", [True, "32", 32.0, math.nan, math.inf, -8, 0, 2**70, [32], {"a": 1}], ids=lambda value: repr(value)[:12]
)
def test_a_dimension_that_is_no_whole_number_is_refused(key: str, value: object) -> None:
    """Neither a traceback nor a silent number; the key is named."""
    with pytest.raises(ModelFileError) as caught:
        import_config(LLAMA | {key: value}, file="config.json")
    assert caught.value.field == key
    assert caught.value.file == "config.json"
    assert caught.value.fix


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "hidden_size"])
def test_a_missing_key_is_refused(key: str) -> None:
    """No default stands in for what decides the cache."""
    with pytest.raises(ModelFileError):
        import_config({name: value for name, value in LLAMA.items() if name != key})


@pytest.mark.parametrize(
    ("full", "kda"),
    [([3], [1, 2]), ([4], [1, 2, 4]), ([4], [1, 1, 2, 3]), ([0], [1, 2, 3]), ([5], [1, 2, 3]), ([4], None)],
)
def test_kda_lists_must_name_each_layer_once(full: list[int], kda: list[int] | None) -> None:
    """Four layers, counted from 1."""
    config = LLAMA | {
        "model_type": "kimi_linear", "num_hidden_layers": 4, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "linear_attn_config": {
            "full_attn_layers": full, "kda_layers": kda, "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
        },
    }  # fmt: skip
    with pytest.raises(ModelFileError, match=r"layer|outside|list"):
        import_config(config)


def test_a_config_without_model_type_is_at_most_a_stranger() -> None:
    """The architecture says llama, but nothing is certain."""
    found = import_config({name: value for name, value in LLAMA.items() if name != "model_type"})
    assert found.exact is False


def test_a_missing_kv_head_count_is_refused_where_it_does_not_mean_all_heads() -> None:
    """Mistral's class has 8 of its own: a config without the key is not MHA."""
    config = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    with pytest.raises(ModelFileError, match="num_key_value_heads is missing"):
        import_config(config | {"model_type": "mistral", "sliding_window": None})
    assert import_config(config).document["attention"] == {"kind": "mha", "heads": 32, "head_dim": 128}


def test_two_spellings_that_disagree_are_refused() -> None:
    """n_layer 32 beside num_hidden_layers 40."""
    with pytest.raises(ModelFileError, match="num_hidden_layers is 32 but n_layer is 40") as caught:
        import_config(LLAMA | {"n_layer": 40})
    assert caught.value.field == "n_layer"


def test_kv_heads_that_do_not_divide_the_heads_are_refused() -> None:
    """32 heads cannot share 5."""
    with pytest.raises(ModelFileError, match="evenly"):
        import_config(LLAMA | {"num_key_value_heads": 5})


def test_an_encoder_keeps_no_cache() -> None:
    """BERT is refused unless it says that it decodes."""
    config = LLAMA | {"model_type": "bert"}
    with pytest.raises(ModelFileError, match="encoder"):
        import_config(config)
    assert import_config(config | {"is_decoder": True}).document["layers"] == 32


@pytest.mark.parametrize("value", [None, 7, "text", [1], True])
def test_what_is_no_object_is_refused(value: Any) -> None:
    """A config.json is an object."""
    with pytest.raises(ModelFileError):
        import_config(value)


CONFIGS = [row["config"] for row in rows("configs.jsonl")]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
NUMBERS: st.SearchStrategy[object] = st.sampled_from(
    [0, -1, 1, 2, 3, 7, 2**20, 2**31, 2**63, True, False, 1.5, "8", None, [], {}, [1, 2], "M*E-"]
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A published config with a few keys, at any depth, replaced, removed or moved."""
    config: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(CONFIGS))))
    for _ in range(draw(st.integers(1, 4))):
        place: dict[str, Any] = config
        while nested := [key for key, value in place.items() if isinstance(value, dict) and value]:
            if draw(st.booleans()):
                break
            place = place[draw(st.sampled_from(sorted(nested)))]
        if not place:
            continue
        key = draw(st.sampled_from(sorted(place)))
        action = draw(st.integers(0, 3))
        if action == 0:
            del place[key]
        elif action == 1:
            place[key] = draw(JSON)
        elif action == 2:
            place[draw(st.sampled_from(sorted(place)))] = place[key]
        else:
            place[key] = draw(NUMBERS)
    return config


@given(mutated())
def test_only_expected_errors_escape(config: dict[str, Any]) -> None:
    """Every mutation ends in a refusal, or in a document that loads and whose layers are all known."""
    refusal: KvcalcError | None = None
    try:
        found = import_config(config, file="config.json")
    except KvcalcError as error:
        refusal = error
    if refusal is not None:
        assert refusal.fix
        return
    model = model_from_document(found.document)
    assert all(name in model.blocks for layer in model.layers for name in layer)
    json.dumps(found.document, allow_nan=False)


@given(st.dictionaries(st.text(max_size=12), JSON, max_size=6))
def test_any_object_is_refused_in_words(config: dict[str, Any]) -> None:
    """Random objects are no models."""
    with pytest.raises(KvcalcError):
        import_config(config)
