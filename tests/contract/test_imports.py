"""What is imported, and when: a start is as cheap as its question, and layers look one way only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from calling import ROOT

from kvcalc.cli.spec import COMMANDS
from kvcalc.registry import load_registry

#: Each costs more than the answer (docs/speed.md); none is needed for one that is not drawn.
HEAVY = (
    "click",
    "dataclasses",
    "huggingface_hub",
    "importlib.metadata",
    "importlib.resources",
    "inspect",
    "numpy",
    "pathlib",
    "pydantic",
    "rich",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "torch",
    "typer",
    "typing",
    "typing_extensions",
    "urllib.request",
    "yaml",
)
PROBE = "import sys; from kvcalc.__main__ import main; main(sys.argv[1:]); sys.stderr.write(' '.join(sys.modules))"


def fresh(code: str, *arguments: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`code` in an interpreter of its own."""
    command = [sys.executable, *flags, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def modules_after(*arguments: str, flags: tuple[str, ...] = ("-S",)) -> set[str]:
    """The modules a fresh interpreter has loaded when the call is answered, the registry's cache being warm."""
    load_registry()
    done = fresh(PROBE, *arguments, flags=flags)
    assert done.returncode == 0
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "llama3", "deepseek-v2", "--format", "json"],
        ["compare", "llama3", "deepseek-v2", "--json", "--gpu", "h200:8"],
        ["compare", "llama3", "deepseek-v2"],
        ["size", "qwen3-next-80b", "-c", "128k", "--kv-dtype", "fp8", "--json"],
        ["fit", "llama3", "--pool", "24GiB", "--format", "csv"],
        ["explain", "gemma3-27b", "--json"],
    ],
    ids=" ".join,
)
def test_answers_about_shipped_models_import_nothing_heavy(arguments: list[str]) -> None:
    """A plain call about shipped models loads no parser, no drawing, no validation, no network."""
    loaded = modules_after(*arguments)
    assert "kvcalc.registry" in loaded
    assert loaded.isdisjoint(HEAVY)
    # One command and one engine.
    engines = {name.removeprefix("kvcalc.engines.") for name in loaded if name.startswith("kvcalc.engines.")}
    assert engines == {"base", "ideal"}
    assert len([name for name in COMMANDS if f"kvcalc.cli.{name}" in loaded]) == 1


def test_a_config_needs_no_parser_and_no_validation(tmp_path: Path) -> None:
    """A user's own config.json is read without YAML, pydantic, the shipped models or what defines dataclasses."""
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "hidden_size": 32, "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    loaded = modules_after("size", str(path), "--json")
    assert "kvcalc.importers.hf" in loaded
    assert loaded.isdisjoint(set(HEAVY) - {"pathlib"})


@pytest.mark.parametrize("command", ["dtypes", "engines", "gpus", "models"])
def test_listings_import_nothing_heavy(command: str) -> None:
    """Listings are as cheap; that of the engines loads every engine, and with them what defines their records."""
    allowed = {"dataclasses", "inspect", "typing"} if command == "engines" else set()
    assert modules_after(command, "--json").isdisjoint(set(HEAVY) - allowed)


def test_what_is_heavy_comes_with_what_needs_it() -> None:
    """rich comes with --format table, pydantic and yaml with a file; torch with none of them."""
    assert "rich.table" in modules_after("dtypes", "--format", "table", flags=())
    loaded = modules_after("size", "model_configs/llama-3-8b.yaml", "--json", flags=())
    assert {"pydantic", "yaml"} <= loaded
    assert loaded.isdisjoint({"rich", "typer", "torch", "numpy", "urllib.request"})


def test_the_library_does_not_import_the_command_line() -> None:
    """`import kvcalc` loads neither the command line nor rendering nor anything heavy."""
    done = fresh("import sys, kvcalc; sys.stderr.write(' '.join(sys.modules))", flags=("-S",))
    loaded = set(done.stderr.split())
    assert "kvcalc" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert not any(name.startswith(("kvcalc.cli", "kvcalc.render")) for name in loaded)


def test_questions_import_nothing_heavy() -> None:
    """A question about a shipped model imports no typer, rich, yaml or pydantic; `print` does not either. The objects
    that Python gets are dataclasses.
    """
    load_registry()
    code = (
        "import sys, kvcalc; assert 'load' in dir(kvcalc); answer = kvcalc.load('llama3').fit(pool='16GiB');"
        "str(answer); kvcalc.compare(['llama3'], pool='16GiB'); sys.stderr.write(' '.join(sys.modules))"
    )
    done = fresh(code, flags=("-S",))
    loaded = set(done.stderr.split())
    assert done.returncode == 0, done.stderr
    assert {"kvcalc.api", "kvcalc.cli.fit"} <= loaded
    assert loaded.isdisjoint(set(HEAVY) - {"dataclasses", "inspect", "typing"})


def test_names_are_there_before_and_after_use() -> None:
    """No public name is hidden by a module of the package once that is imported."""
    code = (
        "import kvcalc, kvcalc.engines, kvcalc.explain_log, kvcalc.schema, kvcalc.dtypes;"
        "print(all(getattr(kvcalc, n) is getattr(__import__('kvcalc.api').api, n) for n in kvcalc.__all__"
        " if n not in ('KvcalcError', '__version__')))"
    )
    assert fresh(code).stdout == "True\n"


def test_layers() -> None:
    """import-linter's contracts hold: the core is pure, imports go one way."""
    done = fresh("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
