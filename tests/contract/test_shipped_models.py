"""Every shipped model: it loads, says where it was read, keeps its promises, and is found by one name only."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from calling import ROOT

from kvcalc.core.capacity import growth
from kvcalc.core.model import Check, Model
from kvcalc.core.plan import Layout, Load
from kvcalc.document import document_from_model
from kvcalc.engines import engine_names, get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.errors import EngineRefusal
from kvcalc.registry import bundled_dir, load_registry, normal
from kvcalc.schema import load_file, load_text
from kvcalc.yamldump import dump
from kvcalc.yamlfile import parse

FILES = sorted(Path(bundled_dir()).glob("*.y*ml"))
MODELS: dict[str, Model] = {path.stem: load_file(path) for path in FILES}
CHECKS = [(name, check) for name, model in MODELS.items() for check in model.checks]


def dtypes(model: Model, kv: str | None = None) -> CacheDtypes:
    base = kv or model.cache_dtype or model.dtype
    return CacheDtypes(
        key=base,
        value=base,
        index=base,
        pending=model.dtype,
        conv=model.dtype,
        state=model.state_dtype or "float32",
    )


def total(model: Model, check: Check) -> int:
    engine, version = get_engine(check.engine)
    setup = Setup(version=version, layout=Layout(), dtypes=dtypes(model, check.dtype))
    return engine.prepare(model, setup).plan(Load(check.context, check.sessions)).total_bytes


def test_enough_models() -> None:
    """At least 120 models are shipped, of every kind that has an importer's rule, at least 30 with a check."""
    assert len(MODELS) >= 120
    assert sum(bool(model.checks) for model in MODELS.values()) >= 30
    kinds = {tag for model in MODELS.values() for tag in model.kinds_summary()}
    assert {"mha", "mqa", "gqa", "mla", "mamba1", "mamba2", "gated_deltanet", "kda", "cross", "shared", "none"} <= kinds


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_called_after_its_model(path: Path) -> None:
    """A file is found by the name in it, and is YAML that ends in a newline."""
    assert MODELS[path.stem].name == path.stem
    assert path.suffix == ".yaml"
    raw = path.read_bytes()
    assert raw.endswith(b"\n")
    assert b"\t" not in raw
    assert b"\r" not in raw


@pytest.mark.parametrize("name", MODELS)
def test_numbers_have_a_source(name: str) -> None:
    """Every model says where it was read: a repository and a file, or an address; and no place of this machine."""
    source = MODELS[name].source
    assert (source.repo and source.file) or source.url
    text = (Path(bundled_dir()) / f"{name}.yaml").read_text()
    assert not re.search(r"(?<![\w./:-])/[a-z]+/", text)


@pytest.mark.parametrize("name", MODELS)
def test_written_and_read_again(name: str) -> None:
    """YAML -> model -> YAML -> model -> YAML: the second model equals the first, the texts are equal."""
    model = MODELS[name]
    text = dump(document_from_model(model))
    again = load_text(text.encode(), file="again.yaml")
    assert again == model
    assert dump(document_from_model(again)) == text


@pytest.mark.parametrize("name", MODELS)
def test_lowers(name: str) -> None:
    """Every block lowers, layers are covered, the ideal cache is positive integers that never shrink."""
    model = MODELS[name]
    assert {block for layer in model.layers for block in layer} <= set(model.blocks)
    assert all(layer for layer in model.layers)
    engine, version = get_engine("ideal")
    planner = engine.prepare(model, Setup(version=version, layout=Layout(), dtypes=dtypes(model)))
    sizes = [planner.plan(Load(tokens, 1, 100)).total_bytes for tokens in (1, 1000, 4096, 131072, 2**20)]
    assert sizes == sorted(sizes)
    assert all(type(size) is int and size > 0 for size in sizes)
    rate = growth(planner, encoder_tokens=100)
    assert type(rate.fixed_bytes) is int
    assert rate.fixed_bytes >= 0
    assert rate.marginal_bytes >= 0


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=[f"{name}-{check.context}" for name, check in CHECKS])
def test_published_figure(name: str, check: Check) -> None:
    """A figure somebody published about this model is reproduced to the byte, and has an address."""
    assert total(MODELS[name], check) == check.bytes
    assert re.search(r"https?://|arXiv:", check.published)


def test_checks_can_fail() -> None:
    """A check with another number would be noticed."""
    name, check = CHECKS[0]
    assert total(MODELS[name], check) != check.bytes + 1


def test_names_and_aliases_are_unique() -> None:
    """Case and punctuation aside, no two models share a name or an alias, and no model repeats itself."""
    words = Counter(normal(word) for model in MODELS.values() for word in {model.name, *model.aliases})
    assert [word for word, count in words.items() if count > 1] == []
    for model in MODELS.values():
        assert len(set(model.aliases)) == len(model.aliases)
        assert all(normal(word) for word in (model.name, *model.aliases))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("llama3", "llama-3-8b"),
        ("llama3-70b", "llama-3-70b"),
        ("deepseek-v2", "deepseek-v2"),
        ("deepseek-v3", "deepseek-v3"),
        ("deepseek-r1", "deepseek-v3"),
        ("qwen3-8b", "qwen3-8b"),
        ("qwen3-235b-a22b", "qwen3-235b-a22b"),
        ("qwen3-next-80b", "qwen3-next-80b-a3b"),
        ("gemma3-27b", "gemma-3-27b"),
        ("gpt-oss-20b", "gpt-oss-20b"),
        ("gpt-oss-120b", "gpt-oss-120b"),
        ("falcon-7b", "falcon-7b"),
        ("mistral-7b-v0.1", "mistral-7b-v0.1"),
        ("mixtral", "mixtral-8x7b"),
        ("LLaMA 3 8B", "llama-3-8b"),
        ("Qwen3_8B", "qwen3-8b"),
    ],
)
def test_names_people_type(word: str, name: str) -> None:
    """The names people type find the model they mean."""
    assert load_registry().model(word).name == name


@pytest.mark.parametrize("name", MODELS)
def test_registry_gives_what_the_file_says(name: str) -> None:
    """The registry's model, which went through its cache, equals the file's, by name and by every alias."""
    registry = load_registry()
    for word in (name, *MODELS[name].aliases):
        assert registry.model(word) == MODELS[name]


def test_rounded_sizes_say_so() -> None:
    """Checkpoint bytes read from a figure with decimals are marked so: the ledger calls them estimates."""
    for name, model in MODELS.items():
        weights = model.weights
        if weights is not None and weights.bytes is not None and "decimals" in (weights.source or ""):
            assert weights.rounded, name


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.weights and model.weights.bytes])
def test_checkpoint_bytes_are_plausible(name: str) -> None:
    """Stated checkpoint bytes lie between 3 bits and 4.5 bytes a parameter: a unit mistake would not."""
    model = MODELS[name]
    assert model.weights is not None
    assert model.weights.bytes is not None
    assert model.weights.source
    if model.parameters is None:
        pytest.skip("parameters are not stated")
    assert 3 * model.parameters < model.weights.bytes * 8 < 36 * model.parameters


def test_readme_of_the_house_rule() -> None:
    """Every file of model_configs is a model: nothing else lies there."""
    assert sorted(path.name for path in (ROOT / "model_configs").iterdir()) == sorted(path.name for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_plain_yaml(path: Path) -> None:
    """A shipped file is read alike by any YAML reader: no anchors, tags or numbers that YAML 1.1 reads otherwise."""
    document, lines = parse(path.read_text(encoding="utf-8"), path.name)
    assert document == yaml.safe_load(path.read_text(encoding="utf-8"))
    assert lines["name",] >= 1


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("name", MODELS)
def test_every_engine_answers_or_refuses(engine: str, name: str) -> None:
    """Each engine plans each shipped model in whole bytes, or refuses in words that name the reason."""
    made, version = get_engine(engine)
    model = MODELS[name]
    try:
        planner = made.prepare(model, Setup(version=version, layout=Layout(), dtypes=dtypes(model)))
        size = planner.plan(Load(8192, 2, 100)).total_bytes
    except EngineRefusal as refusal:
        said = str(refusal)
    else:
        said = ""
        assert type(size) is int
        assert size > 0
    assert engine != "ideal" or not said
