"""Checkpoint sizes from safetensors headers: right for real layouts, refused for broken and hostile ones."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.errors import KvcalcError, ModelFileError
from kvcalc.importers.safetensors import INDEX, SINGLE, Checkpoint, read_folder
from kvcalc.targets import load_path

#: dtype -> bytes of one element, as https://github.com/huggingface/safetensors says.
WIDTH = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "I64": 8, "I32": 4, "U8": 1}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "vocab_size": 100,
    "torch_dtype": "bfloat16",
}


def packed(tensors: dict[str, tuple[str, list[int]]], **more: Any) -> bytes:
    """A safetensors file with zeros for data, written by hand."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = WIDTH[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header | more).encode()
    text += b" " * (-len(text) % 8)  # writers pad the header with spaces
    return struct.pack("<Q", len(text)) + text + bytes(end)


def test_one_file(tmp_path: Path) -> None:
    """Parameters are the elements of all weights, bytes those of all tensors."""
    (tmp_path / SINGLE).write_bytes(packed({"w": ("BF16", [3, 5]), "b": ("F32", [5]), "scalar": ("F32", [])}))
    found = read_folder(tmp_path)
    assert found == Checkpoint(bytes=30 + 20 + 4, parameters=15 + 5 + 1, source="header of model.safetensors")
    assert type(found.bytes) is int


def test_several_files(tmp_path: Path) -> None:
    """An index names the files; only those count, other safetensors beside them do not."""
    (tmp_path / "a.safetensors").write_bytes(packed({"w": ("BF16", [4])}))
    (tmp_path / "b.safetensors").write_bytes(packed({"v": ("BF16", [6])}))
    (tmp_path / "consolidated.safetensors").write_bytes(packed({"w": ("BF16", [1000])}))
    index = {"metadata": {"total_size": 1}, "weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    found = read_folder(tmp_path)
    assert found is not None
    assert (found.bytes, found.parameters) == (20, 10)


def test_buffers_and_scales_are_bytes_but_no_parameters(tmp_path: Path) -> None:
    """Position buffers and quantisation scales take space and are no parameters (DeepSeek-V3's fp8 layout)."""
    tensors = {
        "w": ("F8_E4M3", [256, 256]),
        "w_scale_inv": ("F32", [2, 2]),
        "position_ids": ("I64", [512]),
    }
    (tmp_path / SINGLE).write_bytes(packed(tensors))
    found = read_folder(tmp_path)
    assert found is not None
    assert (found.bytes, found.parameters) == (65536 + 16 + 4096, 65536)


@pytest.mark.parametrize("dtype", ["I32", "U8"])
def test_packed_weights_have_no_parameter_count(dtype: str, tmp_path: Path) -> None:
    """GPTQ, AWQ (I32) and MXFP4 (U8) pack several parameters into an element: only the bytes are known."""
    (tmp_path / SINGLE).write_bytes(packed({"w.qweight": (dtype, [8, 8]), "norm": ("BF16", [8])}))
    found = read_folder(tmp_path)
    assert found is not None
    assert found.parameters is None
    assert found.bytes == 64 * WIDTH[dtype] + 16


def test_missing_files_leave_the_index_totals(tmp_path: Path) -> None:
    """With shards not downloaded, the totals that transformers wrote into the index count."""
    index: dict[str, Any] = {
        "metadata": {"total_size": 1000, "total_parameters": 500},
        "weight_map": {"w": "x.safetensors"},
    }
    (tmp_path / INDEX).write_text(json.dumps(index))
    found = read_folder(tmp_path)
    assert found is not None
    assert (found.bytes, found.parameters) == (1000, 500)
    assert "index" in found.source
    (tmp_path / INDEX).write_text(json.dumps(index | {"metadata": {"total_size": "many"}}))
    assert read_folder(tmp_path) is None


def test_a_folder_without_weights_has_none(tmp_path: Path) -> None:
    assert read_folder(tmp_path) is None


GOOD = packed({"w": ("BF16", [4])})
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x01\x02",
    "truncated header": GOOD[:20],
    "truncated data": GOOD[:-1],
    "trailing bytes": GOOD + b"x",
    "length 2**63": struct.pack("<Q", 2**63) + b"{}",
    "length beyond the file": struct.pack("<Q", 4096) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "no object": struct.pack("<Q", 2) + b"[]",
    "bad UTF-8": struct.pack("<Q", 4) + b'{"\xff}',
    "deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "unknown dtype": packed({}, w={"dtype": "F7", "shape": [1], "data_offsets": [0, 1]}),
    "dtype no text": packed({}, w={"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}),
    "no offsets": packed({}, w={"dtype": "F32", "shape": [1]}),
    "entry no object": packed({}, w=[1]),
    "negative shape": packed({}, w={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}),
    "float shape": packed({}, w={"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}),
    "bool shape": packed({}, w={"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}),
    "offsets reversed": packed({}, w={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}),
    "shape and offsets disagree": packed({}, w={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}),
    "huge shape": packed({}, w={"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}),
    "many dimensions": packed({}, w={"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}),
    "more data than the file": packed({}, w={"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, tmp_path: Path) -> None:
    """Never a traceback, never a number: what is wrong and which file."""
    (tmp_path / SINGLE).write_bytes(BROKEN[name])
    with pytest.raises(ModelFileError) as error:
        read_folder(tmp_path)
    assert SINGLE in str(error.value)
    assert error.value.fix


def test_a_git_lfs_pointer_says_so(tmp_path: Path) -> None:
    """A clone without git-lfs has pointers in place of weights."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / SINGLE).write_text(pointer)
    with pytest.raises(ModelFileError, match="Git LFS"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../other.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "x.bin",
        "",
        "a\\b.safetensors",
        7,
        None,
        "\x00.safetensors",
    ],
)
def test_an_index_names_only_files_beside_it(shard: object, tmp_path: Path) -> None:
    """A hostile index cannot make kvcalc open another file."""
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 5}, "weight_map": {"w": shard}}))
    with pytest.raises(ModelFileError, match="beside it"):
        read_folder(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "nonsense"])
def test_a_broken_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ModelFileError):
        read_folder(tmp_path)


def test_an_endless_index_is_refused(tmp_path: Path) -> None:
    """An index that names too many files is refused before any is opened."""
    names = {f"w{i}": f"{i}.safetensors" for i in range(5000)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelFileError, match="5,000 files"):
        read_folder(tmp_path)


def test_a_header_of_ninety_thousand_tensors_is_quick_and_small(tmp_path: Path) -> None:
    """A DeepSeek-V3-sized header takes less than 200 MB."""
    tensors = {f"model.layers.{i // 1500}.mlp.experts.{i}.down_proj.weight": ("BF16", [1]) for i in range(90_000)}
    (tmp_path / SINGLE).write_bytes(packed(tensors))
    tracemalloc.start()
    started = time.process_time()
    found = read_folder(tmp_path)
    spent, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.parameters == 90_000
    assert peak < 200 * 2**20
    assert spent < 20  # traced; a hang would be minutes


@given(st.binary(max_size=200), st.integers(0, len(GOOD)), st.integers(0, 64))
def test_mutated_files_never_crash(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, cut: int) -> None:
    """Any bytes give a checkpoint or a refusal."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / SINGLE).write_bytes(GOOD[:at] + noise + GOOD[at + cut :])
    try:
        found = read_folder(folder)
    except KvcalcError:
        return
    assert found is not None
    assert found.bytes >= 0


def test_a_checkpoint_folder_knows_its_weights(tmp_path: Path) -> None:
    """A target that is a folder has parameters and weight bytes from its files, for the ledger."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / SINGLE).write_bytes(packed({"w": ("BF16", [4, 8])}))
    for target in (tmp_path, tmp_path / "config.json"):
        model = load_path(str(target)).model
        assert model.parameters == 32
        assert model.weights is not None
        assert model.weights.bytes == 64


def test_broken_weights_cost_the_weights_not_the_cache(tmp_path: Path) -> None:
    """The model is still read; the warning says why its weights are unknown."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / SINGLE).write_bytes(GOOD[:-1])
    found = load_path(str(tmp_path))
    assert found.model.weights is None
    assert any("incomplete" in text for text in found.warnings)
