"""JSON, binary and huge files, places that are no files, broken model directories: exit 3 and what to do."""

from __future__ import annotations

import json
from dataclasses import MISSING
from pathlib import Path

import pytest
from calling import Call
from sound import TINY, Text, changed

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "hidden_size": 64,
    "torch_dtype": "bfloat16",
}


def llama(field: str, value: object) -> str:
    return json.dumps(changed(LLAMA, field, value))


JSON_FILES = [
    Text("trunc", '{"name": "x",\n "layers":', "2: not valid JSON: Expecting value", "check the syntax"),
    Text("garbage", "not json {{{", "1: not valid JSON: Expecting value", "check the syntax"),
    Text("empty", " \n", " the file is empty", "kvcalc schema"),
    Text("list", "[1, 2]", " a model file is a mapping of fields, not [1, 2]", "write name:"),
    Text("twice", '{"name": "x", "name": "y"}', " name: 'name' is given twice", "keep one"),
    Text("deep", "[" * 100_000, " nested deeper than 24 levels", "flatten it"),
    Text("deep-closed", '{"a":' * 60 + "1" + "}" * 60, " nested deeper than 24 levels", "flatten it"),
    Text("digits", '{"name": ' + "9" * 5000 + "}", " '999", "check the value"),
    Text("no-type", '{"hidden_size": 64}', " ", "model_type"),
    Text(
        "layers-text",
        llama("num_hidden_layers", "x"),
        " num_hidden_layers must be a whole number, not 'x'",
        "config.json",
    ),
    Text(
        "layers-missing", llama("num_hidden_layers", MISSING), " num_hidden_layers is missing", "add num_hidden_layers"
    ),
    Text("heads-negative", llama("num_attention_heads", -8), " num_attention_heads is -8, outside 1 to", "config.json"),
    Text(
        "kvcalc-nan",
        '{"name": "x", "layers": NaN, "dtype": "fp16", "attention": {"kind": "mqa", "heads": 1, "head_dim": 1}}',
        " layers must be a whole number, not nan",
        "as an integer",
    ),
]


@pytest.mark.parametrize("case", JSON_FILES, ids=lambda case: case.id)
def test_json_file(call: Call, tmp_path: Path, case: Text) -> None:
    """A broken config.json: exit 3, what and where, a fix; a syntax error with its line."""
    path = tmp_path / "config.json"
    path.write_text(case.text, encoding="utf-8")
    done = call("size", str(path))
    first, second = done.err.splitlines()
    assert (done.code, done.out) == (3, "")
    assert first.startswith(f"kvcalc: {path}:{case.says}")
    assert case.fix in f"{first}{second}"


BINARY = [
    ("bytes", bytes(range(256)), "is not text (byte 128 is no UTF-8)"),
    ("utf16", TINY.encode("utf-16"), "is not text (byte 0 is no UTF-8)"),
    ("latin1", TINY.replace("tiny", "t\xefny").encode("latin-1"), "is not text (byte 7 is no UTF-8)"),
    ("nul", b"name: a\x00b\n", "is not text (it has NUL bytes)"),
]


@pytest.mark.parametrize(("name", "raw", "says"), BINARY, ids=[row[0] for row in BINARY])
def test_binary_file(call: Call, tmp_path: Path, name: str, raw: bytes, says: str) -> None:
    """A file that is no UTF-8 text: exit 3, said once, with the file's name."""
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(raw)
    done = call("size", str(path))
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines() == [f"kvcalc: {path} {says}", "  name a YAML or JSON model file"]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_hundred_megabytes(call: Call, tmp_path: Path, suffix: str) -> None:
    """A 100 MB file is refused by its size, without reading it."""
    path = tmp_path / f"big.{suffix}"
    with path.open("wb") as stream:
        stream.truncate(100 * 2**20)
    done = call("size", str(path))
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines() == [
        f"kvcalc: {path} is above 4 MiB: no model file is that large",
        "  name the YAML or config.json, not the weights",
    ]


def test_places_that_are_no_files(call: Call, tmp_path: Path) -> None:
    """A directory without config.json, a missing path, a device: exit 3 with the path."""
    cases = [
        (str(tmp_path), "has no config.json", "name a model file or a checkpoint folder"),
        (str(tmp_path / "none.yaml"), "does not exist", "check the path"),
        ("/dev/null", "is no regular file", "check the path"),
        ("/dev/zero", "is no regular file", "check the path"),
    ]
    for path, says, fix in cases:
        done = call("size", path)
        assert (done.code, done.out) == (3, "")
        assert done.err.splitlines() == [f"kvcalc: {path} {says}", f"  {fix}"]


def test_unreadable_file(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without permission is named with the system's reason."""
    path = tmp_path / "model.yaml"
    path.write_text(TINY)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    done = call("size", str(path))
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[0] == f"kvcalc: cannot read {path}: Permission denied"


def test_validate_lists_every_file(call: Call, tmp_path: Path) -> None:
    """`validate` goes on after a broken file, tells each one's fault and ends with 3."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(TINY)
    bad.write_text(TINY.replace("heads: 8", "heads: 0"))
    done = call("validate", str(bad), str(good), str(tmp_path / "none.yaml"), "--json")
    assert done.code == 3
    assert [row["status"] for row in done.answer["results"]] == ["broken", "ok", "broken"]
    assert done.answer["results"][0]["message"].startswith("5: attention.heads is 0, outside 1 to 1,048,576 (")
    assert done.answer["results"][1]["message"] == "tiny: 4 layers, 4 gqa"
    assert done.answer["results"][2]["error"]["exit_code"] == 3


def test_broken_file_of_a_models_directory(call: Call, tmp_path: Path) -> None:
    """A broken file of --models-dir is reported when it is asked for, and does not stop the others."""
    (tmp_path / "mine.yaml").write_text(TINY.replace("name: tiny", "name: mine"))
    (tmp_path / "broken.yaml").write_text(TINY.replace("heads: 8", "heads: 0"))
    options = ("--models-dir", str(tmp_path))
    assert call("size", "mine", *options).code == 0
    done = call("size", "broken", *options)
    assert (done.code, done.out) == (3, "")
    assert f"{tmp_path}/broken.yaml:5: attention.heads is 0" in done.err
    warnings = call("models", "mine", *options, "--json").answer["warnings"]
    assert warnings == ["broken: heads is 0, outside 1 to 1,048,576"]


def test_huge_file_of_a_models_directory(call: Call, tmp_path: Path) -> None:
    """A 100 MB file in --models-dir is refused by its size, and only when asked for."""
    with (tmp_path / "big.yaml").open("wb") as stream:
        stream.truncate(100 * 2**20)
    assert call("size", "llama3", "--models-dir", str(tmp_path)).code == 0
    done = call("size", "big", "--models-dir", str(tmp_path))
    assert (done.code, done.out) == (3, "")
    assert "is above 1 MiB" in done.err
