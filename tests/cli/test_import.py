"""`kvcalc import`: a checkpoint's header becomes a model YAML that answers the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from calling import Call

#: Llama-3-8B's config.json, the fields a cache needs.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder as a download leaves it."""
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_the_yaml_answers_like_the_config(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    """131,072 bytes a token from the config.json, and from the YAML made of it; what was derived is noted."""
    made = tmp_path / "made.yaml"
    assert call("import", str(checkpoint), "-o", str(made)) == (0, "", "")
    document = yaml.safe_load(made.read_text())
    assert document["name"] == "my-llama"
    assert document["source"] == {"file": "config.json"}
    assert any("head_dim" in note for note in document["notes"])
    for source in (str(checkpoint), str(made)):
        assert call("size", source, "--json").answer["marginal_bytes_per_token"] == 131072


def test_printed_without_a_file(call: Call, checkpoint: Path) -> None:
    """Without -o the YAML is printed; --json carries it with the document."""
    said = call("import", str(checkpoint), "--name", "mine").out
    assert yaml.safe_load(said)["name"] == "mine"
    answer = call("import", str(checkpoint), "--name", "mine", "--json").answer
    assert answer["yaml"] == said
    assert answer["document"]["layers"] == 32


def test_nothing_is_replaced_or_written_half(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    """An existing file stays without --force; a folder that is not there is an error and leaves nothing."""
    kept = tmp_path / "kept.yaml"
    kept.write_text("mine")
    done = call("import", str(checkpoint), "-o", str(kept))
    assert (done.code, kept.read_text()) == (2, "mine")
    assert "--force" in done.err
    assert call("import", str(checkpoint), "-o", str(kept), "--force").code == 0
    assert kept.read_text().startswith("name: my-llama")
    done = call("import", str(checkpoint), "-o", str(tmp_path / "absent" / "x.yaml"))
    assert (done.code, done.out) == (2, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.yaml", "my-llama"]


def test_a_bad_config_writes_nothing(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    """The importer's refusal is the command's: exit 3, no file."""
    (checkpoint / "config.json").write_text(json.dumps(CONFIG | {"num_key_value_heads": -8}))
    done = call("import", str(checkpoint), "-o", str(tmp_path / "x.yaml"))
    assert done.code == 3
    assert "num_key_value_heads" in done.err
    assert not (tmp_path / "x.yaml").exists()
