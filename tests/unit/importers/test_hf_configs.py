"""Published config.json files end with the right bytes; absent lists end with the layers transformers derives."""

from __future__ import annotations

from typing import Any

import pytest
from hf_fixtures import rows, session_bytes

from kvcalc.core.model import Model
from kvcalc.document import model_from_document
from kvcalc.importers.families import FAMILIES, REFUSED
from kvcalc.importers.hf import class_defaults, import_config
from kvcalc.schema import check_document


@pytest.mark.parametrize("row", rows("configs.jsonl"), ids=lambda row: row["repo"])
def test_a_published_config_gives_its_bytes(row: dict[str, Any]) -> None:
    """4096, 32768 and 131072 tokens, to the byte, as integers."""
    for tokens, expected in row["bytes"].items():
        found = session_bytes(row["config"], int(tokens))
        assert found == expected
        assert type(found) is int


@pytest.mark.parametrize("row", rows("configs.jsonl"), ids=lambda row: row["repo"])
def test_the_schema_has_nothing_to_add(row: dict[str, Any]) -> None:
    """A config is read without the schema's checks (pydantic): they accept the same document and change nothing."""
    document = import_config(row["config"]).document
    assert check_document(document, file="config.json") == model_from_document(document)


def layer_type(model: Model, names: tuple[str, ...]) -> str:
    """What transformers calls a layer with these blocks."""
    kinds = {model.blocks[name].kind for name in names}
    attention = [model.blocks[name] for name in names if model.blocks[name].kind in ("mha", "mqa", "gqa", "mla")]
    sliding = any(getattr(block, "window", None) for block in attention)
    if attention and len(kinds) > 1:
        return "hybrid_sliding" if sliding else "hybrid"
    if attention:
        if getattr(attention[0], "indexer", None) is not None:
            return "indexed_attention"
        chunked = getattr(attention[0], "chunk", None)
        return "chunked_attention" if chunked else "sliding_attention" if sliding else "full_attention"
    return {"short_conv": "conv", "csa": "compressed_sparse_attention", "hca": "heavily_compressed_attention"}.get(
        kinds.pop(), "linear_attention"
    )


@pytest.mark.parametrize(
    "row", rows("layer_types.jsonl"), ids=lambda row: f"{row['config']['model_type']}-{len(row['layer_types'])}"
)
def test_absent_layer_types_follow_the_rule_of_the_class(row: dict[str, Any]) -> None:
    """The same list that the configuration class of transformers 5.23 makes."""
    model = model_from_document(import_config(row["config"], dtype="bfloat16").document)
    found = [layer_type(model, names) for names in model.layers]
    expected = row["layer_types"]
    if row["config"]["model_type"] == "qwen4_exp_text":  # without indexer_head_dim there is nothing to index
        expected = ["full_attention" if kind == "indexed_attention" else kind for kind in expected]
    assert found == expected


def test_every_family_is_either_read_or_refused() -> None:
    """No model_type stands in both lists, and no default belongs to an unknown one."""
    assert not set(FAMILIES) & set(REFUSED)
    assert set(class_defaults()) <= set(FAMILIES)


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_a_refused_family_says_why(model_type: str) -> None:
    """The reason is in the message, not a number in the answer."""
    from kvcalc.errors import ModelFileError

    with pytest.raises(ModelFileError, match="no exact number") as caught:
        import_config({"model_type": model_type, "num_hidden_layers": 2}, file="config.json")
    assert caught.value.field == "model_type"
    assert REFUSED[model_type] in str(caught.value)
