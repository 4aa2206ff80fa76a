"""Live conformance: the real llama.cpp is asked, and every answer must equal the prediction.

A GGUF header goes to the library and, as a file, through kvcalc's importer; both get the same option sets.
Compared: bytes of the context memory, n_ctx, n_ctx_seq, n_batch, n_ubatch, n_seq_max, and every refusal.

Run: pytest tests/conformance/llamacpp (needs the wheel named in PINNED). KVCALC_SEED=n repeats a random run;
KVCALC_WRITE_ACCURACY=1 writes docs/accuracy/llama.cpp.json.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections import Counter
from importlib import metadata as installed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kvcalc.core.model import Model
from kvcalc.core.plan import Load
from kvcalc.document import model_from_document
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.llamacpp import ENGINE
from kvcalc.engines.llamacpp.arch import ARCHS, NOT_COVERED
from kvcalc.errors import EngineRefusal
from kvcalc.importers.gguf import import_gguf

PINNED = "2026.10.11549"
if find_spec("xllamacpp") is None and not os.environ.get("KVCALC_REQUIRE_CONFORMANCE"):
    text = f"xllamacpp=={PINNED} cannot be imported: NOTHING about llama.cpp is proved in this run"
    print(f"\n*** {text} ***", file=sys.__stderr__)
    pytest.skip(text, allow_module_level=True)

from draw import FAMILIES  # noqa: E402
from gguf_bytes import gguf_bytes  # noqa: E402
from live import LiveEngine, engine_options  # noqa: E402
from options import drawn, fixed  # noqa: E402
from shapes import CUT, REAL, SMALL, cut, metadata  # noqa: E402

SIZES = ("n_ctx", "n_ctx_seq", "n_batch", "n_ubatch", "n_seq_max", "context_bytes")
SHAPES = {
    name: (architecture, cut(keys, CUT[name]) if name in CUT else keys)
    for name, (architecture, keys) in (REAL | SMALL).items()
}
RANDOM_MODELS, RANDOM_OPTIONS = 132, 10
#: Words of the library's refusal -> words of ours.
REASONS = {
    "different K": "different K",
    "quantized V cache": "quantized V cache",
    "K cache type": "K cache type",
    "V cache type": "V cache type",
    "n_seq_max must be": "n_seq_max must be",
}
ASKED: frozenset[Any] = frozenset(("key", "value"))
COUNTS: Counter[str] = Counter()
#: Architecture -> option sets compared and equal, of the fixed ones: what docs/accuracy says.
CELLS: dict[str, Counter[str]] = {}
DONE: set[str] = set()
TABLE = Path(__file__).parents[3] / "docs" / "accuracy" / "llama.cpp.json"


@pytest.fixture(scope="module")
def engine() -> Any:
    with LiveEngine() as live:
        yield live


@pytest.fixture(scope="module", autouse=True)
def summary() -> Any:
    """Prints the counts; a full run must be what docs/accuracy says (KVCALC_WRITE_ACCURACY=1 writes it)."""
    yield
    print(f"\nllama.cpp {PINNED}: {dict(COUNTS)} over {len(CELLS)} architectures", file=sys.__stderr__)
    if set(SHAPES) - DONE:
        return
    if os.environ.get("KVCALC_WRITE_ACCURACY") == "1":
        TABLE.write_text(json.dumps(table(), indent=1) + "\n")
    assert json.loads(TABLE.read_text()) == table()


def table() -> dict[str, Any]:
    """The engine's entry in docs/accuracy."""
    names = {name: "no header without weights makes this build run it" for name in ARCHS if name not in CELLS}
    return {
        "engine": "llama.cpp",
        "version": ENGINE.versions[0],
        "proof": "the real library from a pinned wheel; exact bytes of its memory breakdown, n_ctx, n_ctx_seq, batches "
        "and refusals, for GGUF headers of real and of small models; random models and options in every run besides",
        "architectures": {name: dict(sorted(row.items())) for name, row in sorted(CELLS.items())},
        "not_measured": dict(sorted((names | NOT_COVERED).items())),
        "deviations": [
            "option sets on which the library aborts instead of answering are refused",
            "CUDA rounds rows of block formats up to 512 elements; these figures are of the CPU's buffers",
        ],
    }


def predict(path: Path, options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What kvcalc says for a file and option sets of the library's names."""
    return predicted(model_from_document(import_gguf(path).document), options)


def predicted(model: Model, options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What kvcalc says for a model."""
    answers: list[dict[str, Any]] = []
    for asked in options:
        rest = dict(asked)
        key, value, slots = rest.pop("type_k"), rest.pop("type_v"), rest.pop("n_seq_max")
        other = "float32"
        dtypes = CacheDtypes(key=key, value=value, index=key, pending=other, conv=other, state=other)
        try:
            planner = ENGINE.prepare(model, Setup(version=ENGINE.versions[0], dtypes=dtypes, options=rest, asked=ASKED))
            load = Load(1, slots)
            report = planner.report(load)
            assert report["context_bytes"] == planner.plan(load).total_bytes
            answers.append(report)
        except EngineRefusal as refusal:
            answers.append({"refused": str(refusal)})
    return answers


def differs(said: dict[str, Any], predicted: dict[str, Any]) -> bool:
    """Whether a prediction is not what the library did."""
    if "context_bytes" in said:
        return any(said[name] != predicted.get(name) for name in SIZES)
    if "aborted" in said:
        return "aborts" not in predicted.get("refused", "")
    if "refused" not in said:
        return True
    reason = next((ours for words, ours in REASONS.items() if words in said["refused"]), None)
    return reason is None or reason not in predicted.get("refused", "")


def compare(path: Path, options: list[dict[str, Any]], said: list[dict[str, Any]], architecture: str = "") -> None:
    """Count the equal ones, for the table where an architecture is named; report the first that is not."""
    wrong = []
    for asked, answer, ours in zip(options, said, predict(path, options), strict=True):
        COUNTS["contexts" if "context_bytes" in answer else "refusals" if "refused" in answer else "aborts"] += 1
        if differs(answer, ours):
            wrong.append(f"asked {asked}\nllama.cpp {answer}\nkvcalc    {ours}")
    COUNTS["equal"] += len(options) - len(wrong)
    if architecture:
        row = CELLS.setdefault(architecture, Counter())
        row["cells"] += len(options)
        row["equal"] += len(options) - len(wrong)
    assert not wrong, f"{len(wrong)} of {len(options)} differ, the first:\n{wrong[0]}"


def test_the_wheel_is_the_pinned_one() -> None:
    """The numbers are of one build: the wheel in use is the pinned one, and the engine's default version names it."""
    assert installed.version("xllamacpp") == PINNED
    assert ENGINE.versions[0] == "b" + PINNED.rpartition(".")[2]


def test_enough_is_asked() -> None:
    """At least 60 shapes of at least 30 architectures are asked with at least 60 option sets each."""
    assert len(SHAPES) >= 60
    assert len({architecture for architecture, _ in SHAPES.values()}) >= 30
    assert len({json.dumps(item, sort_keys=True) for item in fixed()}) == len(fixed()) >= 60


@pytest.mark.parametrize("name", SHAPES)
def test_every_context_of_a_shape_equals_the_library(name: str, engine: LiveEngine, tmp_path: Path) -> None:
    """Bytes, sizes and refusals of every fixed option set are the library's own."""
    architecture, keys = SHAPES[name]
    path = tmp_path / "shape.gguf"
    path.write_bytes(gguf_bytes(metadata(architecture, keys)))
    options = fixed()
    said = engine.ask(path, [engine_options(item) for item in options])
    assert "context_bytes" in said[0], f"the library cannot run this shape at all: {said[0]}"
    DONE.add(name)
    compare(path, options, said, architecture)


@pytest.mark.parametrize("name", CUT)
def test_the_whole_of_a_shortened_model_equals_the_library(name: str, engine: LiveEngine, tmp_path: Path) -> None:
    """Real models whose states are large are asked at their full depth with one slot."""
    architecture, keys = REAL[name]
    path = tmp_path / "shape.gguf"
    path.write_bytes(gguf_bytes(metadata(architecture, keys)))
    options = [fixed()[0], fixed()[0] | {"n_ctx": 0}]
    compare(path, options, engine.ask(path, [engine_options(item) for item in options]))


def test_random_models_equal_the_library(engine: LiveEngine, tmp_path: Path) -> None:
    """The same for models and options drawn anew in every run; the seed is printed and repeats it."""
    seed = os.environ.get("KVCALC_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"\nllama.cpp random models: KVCALC_SEED={seed}", file=sys.__stderr__)
    unusable = []
    for number in range(RANDOM_MODELS):
        chance = random.Random(f"{seed}/{number}")
        architecture, keys = FAMILIES[number % len(FAMILIES)](chance)
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(gguf_bytes(metadata(architecture, keys)))
        options = fixed()[:1] + drawn(chance, RANDOM_OPTIONS)
        said = engine.ask(path, [engine_options(item) for item in options])
        if "context_bytes" not in said[0]:
            unusable.append(f"{architecture}: {said[0]}")  # its graph cannot be built with these dimensions
            continue
        compare(path, options, said)
    COUNTS["random_models"] = RANDOM_MODELS - len(unusable)
    assert len(unusable) <= RANDOM_MODELS // 10, f"too few drawn models run: {unusable[:5]}"


def test_the_most_slots_equal_the_library(engine: LiveEngine, tmp_path: Path) -> None:
    """256 slots, the most there are, hold what is predicted (a model without states: those are really allocated)."""
    path = tmp_path / "shape.gguf"
    path.write_bytes(gguf_bytes(metadata(*SHAPES["gemma3-pattern-4"])))
    options = [fixed()[0] | {"n_seq_max": 256, "n_ctx": 65536, "kv_unified": unified} for unified in (False, True)]
    compare(path, options, engine.ask(path, [engine_options(item) for item in options]))


def test_refusals_are_counted_by_reason(engine: LiveEngine, tmp_path: Path) -> None:
    """Each refusal of llama_init_from_model that kvcalc names is really given by this build, in these words."""
    path = tmp_path / "shape.gguf"
    path.write_bytes(gguf_bytes(metadata(*SHAPES["hd80"])))
    server = fixed()[0]
    asked = [
        server | {"type_k": "q8_0"}, server | {"type_v": "q8_0"}, server | {"flash_attn": "off", "type_v": "q8_0"},
        server | {"n_seq_max": 257, "n_ctx": 65536},
    ]  # fmt: skip
    said = [answer["refused"] for answer in engine.ask(path, [engine_options(item) for item in asked])]
    expected = ("K cache type q8_0", "V cache type q8_0", "quantized V cache", "n_seq_max must be <= 256")
    for words, answer in zip(expected, said, strict=True):
        assert re.search(words, answer)
