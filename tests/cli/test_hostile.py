"""What fuzzing found, each as the smallest input that showed it: a refusal with a way out, or the right answer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from calling import Call
from gguf_bytes import gguf_bytes
from sound import TINY

from kvcalc.answers.importing import import_model
from kvcalc.errors import MAX_SENTENCE, ModelFileError, UsageError
from kvcalc.explain_log import explain
from kvcalc.measure.saved import check
from kvcalc.planning.startlog import read_log
from kvcalc.registry import load_registry
from kvcalc.schema import load_text
from kvcalc.targets import load_path

ROOT = Path(__file__).resolve().parents[2]
LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 8, "torch_dtype": "bfloat16"}


def test_a_key_never_reaches_the_terminal_raw(call: Call, tmp_path: Path) -> None:
    """Escape codes and line breaks in a key, which a suggestion or a field repeats, are shown, not sent."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "hidden_si\x1b[2Jze\u2028\n": 64}))
    done = call("size", str(path))
    assert done.code == 3
    assert r"did you mean hidden_si\x1b[2Jze\u2028\n" in done.err
    assert len(done.err.splitlines()) == 2
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes({"llama.\x1b[31m\x85": 1}).replace(b"\x04\x00\x00\x00\x01", b"\x63\x00\x00\x00\x01"))
    done = call("size", str(path))
    assert done.code == 3
    assert r"llama.\x1b[31m\x85" in done.err
    assert all(line.isprintable() for line in done.err.splitlines())


def test_a_message_has_an_end(tmp_path: Path) -> None:
    """A name of any length is cut in the message about it."""
    with pytest.raises(ModelFileError) as caught:
        load_text(f"{TINY}mtp: {{layers: 1, block: {'x' * 25_000}}}\n".encode(), file="a.yaml")
    assert len(str(caught.value)) <= MAX_SENTENCE


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    """JSON can write half of a surrogate pair, in a value or a key."""
    for text in ('{"name": "\\ud800"}', '{"\\udfff": 1}'):
        path = tmp_path / "m.json"
        path.write_text(text)
        with pytest.raises(ModelFileError, match="half of a character"):
            load_path(str(path))
    (tmp_path / "whole.json").write_text('{"name": "\\ud83d\\ude00", "layers": 0, "attention": {}}')
    with pytest.raises(ModelFileError, match="layers is 0"):
        load_path(str(tmp_path / "whole.json"))


@pytest.mark.parametrize("revision", ["12e4567", "1e9", "7E1", "12_3", "1.e5"])
def test_a_revision_that_looks_like_a_number_stays_text(revision: str, tmp_path: Path) -> None:
    """`import` writes what `validate` reads: a commit of digits and one e is no float."""
    path = tmp_path / "a.yaml"
    path.write_text(f"{TINY}source: {{repo: a/b, revision: '{revision}'}}\n")
    target = load_path(str(path))
    again = load_text(import_model(target)["yaml"].encode(), file="b.yaml")
    assert again.source.revision == revision


def test_weights_without_a_word_are_none() -> None:
    """`weights: {}` says nothing, and is read as nothing."""
    assert load_text(f"{TINY}weights: {{}}\n".encode(), file="a.yaml").weights is None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("w.jsonl", "[" * 100_000, "w.jsonl:1 is no JSON object"),
        ("w.csv", f'prompt_tokens,output_tokens\n"{"1" * 200_000}",2\n', "is no CSV: field larger than field limit"),
        (
            "w.json",
            '{"prompt": {"p50": 9, "sigma": 1000000}, "output": 1}',
            "prompt.sigma must be a number from 0 to 20",
        ),
        ("w.json", '{"prompt": {"mean": 9, "sigma": 99}, "output": 1}', "prompt.sigma must be a number from 0 to 20"),
        ("w.json", json.dumps({"mix": [{"prompt": 1, "output": 1}] * 33}), "mix is a list of 1 to 32 times"),
        ("w.json", "{", "not valid JSON"),
        ("w.yaml", "prompt: &a 1\noutput: *a\n", "YAML anchors and aliases are not read"),
    ],
)
def test_workloads(*, call: Call, tmp_path: Path, name: str, text: str, says: str) -> None:
    """A workload that cannot be read is a usage error, whatever its syntax."""
    path = tmp_path / name
    path.write_text(text)
    done = call("sessions", "llama3", "--pool", "24GiB", "--workload", str(path))
    assert (done.code, done.out) == (2, "")
    assert says in done.err


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_sigma_on_the_command_line_has_the_same_bound(call: Call, option: str) -> None:
    """`mean=900,sigma=99` has no mean that a float could hold."""
    other = {"--input": "--output", "--output": "--input"}[option]
    done = call("sessions", "llama3", "--pool", "24GiB", option, "mean=900,sigma=99", other, "5")
    assert done.code == 2
    assert "sigma" in done.err


@pytest.mark.parametrize(
    "text",
    [
        "9" * 400_000,
        "Load weight end. " * 25_000,
        "CUDA" + "a" * 400_000,
        "Graph capturing finished in " * 14_000,
        "CUDA0 model buffer size = 1.2.3.4 MiB",
        "9" * 5000 + " GiB for weight",
        "max_num_seqs=" + "9" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_no_log_stalls_the_reader(text: str) -> None:
    """Long runs of digits, letters or half a line cost no more than their length, and overflow nothing."""
    start = time.process_time()
    with pytest.raises(UsageError, match="no memory figures"):
        read_log(f"{text}\n")
    assert time.process_time() - start < 2


def test_a_log_that_contradicts_itself_gives_no_negative_advice() -> None:
    """Needed 2 GiB of 4: whatever is wrong there, it is not that -2 GiB are missing."""
    line = (
        "To serve at least one request with the models's max seq len (8192), (2.0 GiB KV cache is needed, which is "
        "larger than the available KV cache memory (4.0 GiB)."
    )
    advice = explain(line)["advice"]
    assert advice
    assert all(item["bytes"] is None or item["bytes"] >= 0 for item in advice)


SAVED = next(iter(sorted((ROOT / "docs" / "measurements").rglob("llama-3-8b-c8k*.json"))))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("inputs", "asked"), None),
        (("inputs", "asked"), 1.5),
        (("inputs", "asked", "tp"), 1.0),
        (("inputs", "asked", "tp"), [2]),
        (("inputs", "asked", "engine"), 7),
        (("inputs", "asked", "kv_dtype"), 7),
        (("inputs", "asked", "engine_options"), [1]),
        (("inputs", "asked", "context_tokens"), 0),
        (("inputs", "asked", "newer"), 1),
        (("inputs", "target"), None),
        (("measured_ranks",), []),
        (("measured_ranks", 0, "ranks"), []),
        (("measured_ranks", 0, "requested_bytes"), -2),
        (("reserved_bytes",), -2),
    ],
)
def test_saved_measurements(path: tuple[str | int, ...], value: object, tmp_path: Path) -> None:
    """A saved measurement that was changed by hand is refused; what it asked is never replaced by a default."""
    document = json.loads(SAVED.read_text())
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    file = tmp_path / "saved.json"
    file.write_text(json.dumps(document))
    with pytest.raises(UsageError):
        check(str(file), load_registry())


def test_places_that_cannot_be(call: Call) -> None:
    """A path longer than any file's is a path that does not exist, for every command."""
    for command in ("validate", "size", "import"):
        done = call(command, f"{'a' * 300}.yaml")
        assert done.code in (2, 3)
        assert "bug" not in done.err


def test_version_is_the_whole_answer(call: Call) -> None:
    """`--version` beside a command prints the version and runs nothing."""
    done = call("--version", "size", "nope")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("kvcalc ")
    assert done.out.count("\n") == 1
