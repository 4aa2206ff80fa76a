"""The Python of the documentation runs, and gives what stands beside it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIG = (
    '{"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,'
    ' "hidden_size": 128, "head_dim": 16, "vocab_size": 256, "intermediate_size": 256, "torch_dtype": "bfloat16",'
    ' "max_position_embeddings": 4096}'
)


def run(source: str, names: dict[str, Any], where: str) -> int:
    """Every statement in order; an expression with a comment has the comment's value. How many were compared."""
    lines, compared = source.splitlines(), 0
    for found in ast.walk(tree := ast.parse(source)):
        if isinstance(found, ast.Try):  # its expressions are checked where they stand
            found.handlers = [_checking(handler, lines) for handler in found.handlers]
    for statement in tree.body:
        said = _comment(statement, lines)
        if said is None:
            exec(compile(ast.Module([statement], []), where, "exec"), names)
            continue
        value = eval(compile(ast.Expression(statement.value), where, "eval"), names)  # type: ignore[attr-defined]
        assert value == ast.literal_eval(said), lines[statement.lineno - 1]
        compared += 1
    return compared


def _comment(statement: ast.stmt, lines: list[str]) -> str | None:
    """What an expression's line says it is."""
    if not isinstance(statement, ast.Expr):
        return None
    _, mark, said = lines[(statement.end_lineno or statement.lineno) - 1].partition("  # ")
    return said if mark else None


def _checking(handler: ast.ExceptHandler, lines: list[str]) -> ast.ExceptHandler:
    """The handler with each commented expression turned into a comparison that raises."""
    body: list[ast.stmt] = []
    for statement in handler.body:
        said = _comment(statement, lines)
        if said is None:
            body.append(statement)
            continue
        check = f"if ({ast.unparse(statement)}) != ({said}): raise AssertionError({ast.unparse(statement)!r})"
        body += [ast.copy_location(part, statement) for part in ast.parse(check).body]
    handler.body = body
    return ast.fix_missing_locations(handler)


def _documents() -> list[Path]:
    return [
        path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if _BLOCK.search(path.read_text())
    ]


@pytest.mark.parametrize("path", _documents(), ids=lambda path: path.name)
def test_python_blocks_are_true(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of one page run one after another where a checkpoint's folder lies."""
    (tmp_path / "my-checkpoint").mkdir()
    (tmp_path / "my-checkpoint" / "config.json").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "documentation"}
    assert sum(run(block, names, path.name) for block in _BLOCK.findall(path.read_text()))


@pytest.mark.parametrize(
    "source", ["1 + 1  # 3", "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    str(error)  # 'other'"]
)
def test_a_wrong_value_is_found(source: str) -> None:
    """The check fails where the comment is not the value."""
    with pytest.raises(AssertionError):
        run(source, {}, "here")


def test_every_public_name_is_documented() -> None:
    """docs/python.md mentions each public name of the package and each question of a loaded model."""
    import kvcalc

    text = (ROOT / "docs" / "python.md").read_text()
    questions = [name for name in vars(kvcalc.LoadedModel) if not name.startswith("_")]
    for name in {*kvcalc.__all__, *questions} - {"Cache", "LoadedModel", "__version__", "model", "prepare"}:
        assert name in text, name
