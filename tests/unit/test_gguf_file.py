"""The GGUF header reader: versions, byte orders, long arrays, and everything a broken file can claim."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from gguf_bytes import BOOL, FLOAT32, INT32, STRING, UINT32, UINT64, TensorInfo, Typed, Value, Writer, gguf_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from kvcalc.errors import KvcalcError, ModelFileError
from kvcalc.importers.gguf import import_gguf
from kvcalc.importers.gguf_file import BLOCKS, Skipped, read_header

LLAMA: dict[str, Value] = {
    "general.architecture": "llama", "general.name": "Tiny", "llama.context_length": 4096,
    "llama.embedding_length": 512, "llama.block_count": 3, "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2, "llama.vocab_size": 1000,
}  # fmt: skip
TENSORS = [TensorInfo("a", (512, 1000), 0), TensorInfo("b", (512, 512), 8, offset=2048)]


def written(folder: Path, raw: bytes, name: str = "m.gguf") -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def refused(path: Path) -> str:
    """The words of the refusal."""
    with pytest.raises(ModelFileError) as caught:
        import_gguf(path)
    assert caught.value.file
    return str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_versions_and_byte_orders_read_alike(version: int, order: str, tmp_path: Path) -> None:
    """v2 and v3, little and big endian, are the same model; big endian is warned of."""
    path = written(tmp_path, Writer(version=version, order=order).file(LLAMA, TENSORS))
    imported = import_gguf(path)
    assert imported.document["layers"] == 3
    assert imported.document["attention"] == {"kind": "gqa", "heads": 8, "head_dim": 64, "groups": 2}
    assert imported.document["parameters"] == 512 * 1000 + 512 * 512
    assert imported.document["weights"]["bytes"] == 512 * 1000 * 4 + 512 * 512 // 32 * 34
    assert bool(imported.warnings) == (order == ">")


def test_every_value_type_is_read(tmp_path: Path) -> None:
    """All scalar types and arrays of them keep their values; texts and long arrays only their length."""
    values: dict[str, Value] = {f"k{kind}": Typed(kind, 7) for kind in range(13) if kind not in (6, 7, 8, 9, 12)}
    values |= {"f": Typed(FLOAT32, 0.5), "d": Typed(12, 0.25), "yes": Typed(BOOL, value=True), "text": "hi"}
    values |= {"ints": Typed(INT32, [-1, 2]), "flags": Typed(BOOL, [True, False]), "words": Typed(STRING, ["a", "bc"])}
    values |= {"long": Typed(UINT32, [1] * 5000), "essay": "x" * 5000, "u64": Typed(UINT64, 2**40)}
    found = read_header(written(tmp_path, gguf_bytes(values))).metadata
    assert all(found[f"k{kind}"] == 7 for kind in (0, 1, 2, 3, 4, 5, 10, 11))
    assert (found["f"], found["d"], found["yes"], found["text"]) == (0.5, 0.25, True, "hi")
    assert (found["ints"], found["flags"], found["u64"]) == ((-1, 2), (True, False), 2**40)
    assert found["words"] == Skipped(2)
    assert found["long"] == found["essay"] == Skipped(5000)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "truncated"),
        (b"GGUF", "truncated"),
        (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
        (b"lmgg" + bytes(40), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "claims 9,223,372,036,854,775,808 metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9,223,372,036,854,775,808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + bytes(64), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 99) + bytes(8), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**63), "strings"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**63), "truncated"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) + bytes(9),
            "array of unknown",
        ),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IQ", 8, 2**63), "truncated"),
    ],
)
def test_absurd_headers_are_refused_at_once(raw: bytes, words: str, tmp_path: Path) -> None:
    """Wrong magic, old versions, absurd counts and lengths: a clear error, in no time and no memory."""
    start = time.process_time()
    assert words in refused(written(tmp_path, raw))
    assert time.process_time() - start < 0.5


def test_absurd_tensors_are_refused(tmp_path: Path) -> None:
    """A tensor with no or many dimensions, with an absurd size or an endless name."""
    for info, words in (
        (TensorInfo("t", (), 0), "0 dimensions"),
        (TensorInfo("t", (1,) * 5, 0), "5 dimensions"),
        (TensorInfo("t", (2**62, 2**62), 0), "claims"),
        (TensorInfo("t" * 200, (1,), 0), "impossible length"),
    ):
        assert words in refused(written(tmp_path, gguf_bytes(LLAMA, [info])))


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    """Cut anywhere, the file is refused; the whole one is read."""
    whole = gguf_bytes(LLAMA, TENSORS)
    for size in range(0, len(whole), 7):
        refused(written(tmp_path, whole[:size]))
    assert import_gguf(written(tmp_path, whole)).document["layers"] == 3


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """Two values for one key are no sound file."""
    writer = Writer()
    pair = writer.string("k") + writer.value(1)
    raw = b"GGUF" + writer.pack("IQQ", 3, 0, 2) + pair + pair
    assert "comes twice" in refused(written(tmp_path, raw))


def test_a_key_without_a_name_is_refused(tmp_path: Path) -> None:
    """An empty or an endless key."""
    for name in ("", "k" * 5000):
        raw = b"GGUF" + Writer().pack("IQQ", 3, 0, 1) + Writer().string(name) + Writer().value("v" * 100)
        assert "impossible length" in refused(written(tmp_path, raw))


def test_no_file_is_said_so(tmp_path: Path) -> None:
    """A missing path, a directory."""
    assert "no file" in refused(tmp_path / "missing.gguf")
    assert "no file" in refused(tmp_path)


def test_an_unknown_tensor_type_leaves_weights_unknown(tmp_path: Path) -> None:
    """Elements are still counted; bytes of a type that nobody knows are not guessed."""
    document = import_gguf(written(tmp_path, gguf_bytes(LLAMA, [TensorInfo("t", (32,), 99)]))).document
    assert document["parameters"] == 32
    assert "weights" not in document


def test_split_models_are_read_by_their_first_part(tmp_path: Path) -> None:
    """Weights are summed over the parts; a missing part leaves them unknown, another part alone is refused."""
    head = LLAMA | {"split.count": Typed(2, 2), "split.no": Typed(2, 0)}
    first = written(tmp_path, gguf_bytes(head, TENSORS[:1]), "m-00001-of-00002.gguf")
    imported = import_gguf(first)
    assert "weights" not in imported.document
    assert "part 2 of 2" in imported.warnings[0]
    other = {"split.count": Typed(2, 2), "split.no": Typed(2, 1)}
    second = written(tmp_path, gguf_bytes(other, TENSORS[1:]), "m-00002-of-00002.gguf")
    imported = import_gguf(first)
    assert imported.warnings == ()
    assert imported.document["weights"]["bytes"] == 512 * 1000 * 4 + 512 * 512 // 32 * 34
    assert "only the first part" in refused(second)
    absurd = written(tmp_path, gguf_bytes(LLAMA | {"split.count": 2**31, "split.no": 0}), "n-00001-of-00002.gguf")
    assert "impossible" in refused(absurd)


def test_block_sizes_are_those_of_ggml() -> None:
    """Bits per weight of known types, as llama.cpp prints them: Q4_K 4.5, Q6_K 6.5625, IQ1_S 1.5625."""
    bits = {kind: size * 8 / elements for kind, (elements, size) in BLOCKS.items()}
    assert (bits[0], bits[1], bits[8], bits[2]) == (32, 16, 8.5, 4.5)
    assert (bits[12], bits[14], bits[10], bits[19], bits[39]) == (4.5, 6.5625, 2.625, 1.5625, 4.25)


def test_a_large_vocabulary_is_walked_in_bounded_time_and_memory(tmp_path: Path) -> None:
    """250,000 tokens with scores, types and merges: under 20 MB of growth, and a fraction of a second."""
    words = [f"token-{index}" for index in range(250_000)]
    head: dict[str, Value] = {
        **LLAMA, "tokenizer.ggml.tokens": Typed(STRING, words), "tokenizer.ggml.merges": Typed(STRING, words),
        "tokenizer.ggml.scores": Typed(FLOAT32, [0.0] * len(words)),
        "tokenizer.ggml.token_type": Typed(INT32, [1] * len(words)),
    }  # fmt: skip
    path = written(tmp_path, gguf_bytes({key: value for key, value in head.items() if key != "llama.vocab_size"}))
    start = time.process_time()
    assert import_gguf(path).document["vocab_size"] == 250_000
    assert time.process_time() - start < 3.0  # 0.2 s on a quiet core; the bound only tells a walk from a load
    code = (
        "import resource, sys; from pathlib import Path; from kvcalc.importers.gguf_file import read_header;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; read_header(Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 20_000


def test_peak_memory_is_reported_in_kilobytes() -> None:
    """The bound above is in the unit of this platform."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 1000


VALID = gguf_bytes(LLAMA | {"tokenizer.ggml.tokens": Typed(STRING, ["a", "b"])}, TENSORS)


def survives(folder: Path, raw: bytes) -> None:
    """A document or an error in words, quickly."""
    start = time.process_time()
    with suppress(KvcalcError):
        import_gguf(written(folder, raw))
    assert time.process_time() - start < 1.0


@settings(max_examples=300)
@given(raw=st.binary(max_size=300))
def test_any_bytes_after_the_magic_survive(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Random bytes are never a traceback."""
    survives(tmp_path_factory.getbasetemp(), b"GGUF" + struct.pack("<I", 3) + raw)


@settings(max_examples=300)
@given(place=st.integers(0, len(VALID) - 1), byte=st.integers(0, 255), count=st.integers(1, 8))
def test_damaged_files_survive(place: int, byte: int, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Overwritten bytes are never a traceback."""
    raw = VALID[:place] + bytes([byte]) * count + VALID[place + count :]
    survives(tmp_path_factory.getbasetemp(), raw)
