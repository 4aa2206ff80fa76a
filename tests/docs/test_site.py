"""The site: every page is in a table of contents, every link and anchor leads somewhere, recipes really run."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from doctest import ELLIPSIS, DocTestParser, DocTestRunner
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[[^\]]*\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kvcalc_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCS = _script("docs")


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages, in order."""
    return [text for language, text in FENCE.findall(path.read_text()) if language in languages]


def prose(path: Path) -> str:
    """A page without its fenced blocks, whose brackets are no links."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as repository viewers and the site make them."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_table_of_contents() -> None:
    """docs/index.md lists every page exactly once, and nothing that is not there: add a page's name to a toctree."""
    listed = re.findall(r"^```\{toctree\}\n(.*?)^```$", (ROOT / "docs/index.md").read_text(), re.MULTILINE | re.DOTALL)
    names = [line for block in listed for line in block.splitlines() if line and not line.startswith(":")]
    there = [str(path.relative_to(ROOT / "docs").with_suffix("")) for path in PAGES]
    assert sorted(names) == sorted(name for name in there if name != "index")


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: path.stem)
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    """A relative link names a file, a picture is there, and an anchor names a heading."""
    for _, target, anchor in LINK.findall(prose(path)):
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor[1:] in slugs(file), f"{target}{anchor}"


def test_every_kind_has_its_place_in_the_concepts() -> None:
    """Each kind of the registry stands on a concept page, with its diagram where a model is shipped."""
    from kvcalc.kinds import KIND_TAGS

    text = "\n".join(path.read_text() for path in (ROOT / "docs/concepts").glob("*.md"))
    missing = [tag for tag in KIND_TAGS if f"`{tag}`" not in text]
    assert not missing
    undrawn = [tag for tag in KIND_TAGS if f"(../diagrams/{tag}.svg)" not in text]
    assert undrawn == ["mlstm"]  # no model of it is shipped


def test_diagrams_are_current() -> None:
    """docs/diagrams holds what the shipped models give, and nothing else."""
    pictures = _script("diagrams").pictures()
    assert set((ROOT / "docs/diagrams").iterdir()) == set(pictures)
    for path, text in pictures.items():
        assert path.read_text() == text, "run python scripts/docs.py"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', True),
        ("a.html", "<img alt='' src=//cdn.example/x.png>", True),
        ("a.html", '<link rel="stylesheet" href="https://fonts.example/x.css">', True),
        ("a.css", "@import url(https://fonts.example/x.css);", True),
        ("a.css", "p { background: url('//cdn.example/x.png') }", True),
        ("a.html", '<a href="https://arxiv.org/abs/2405.04434">paper</a><img src="_images/mla.svg">', False),
        ("a.css", "p { background: url(x.png) } /* https://example.org */", False),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(name: str, text: str, found: bool, tmp_path: Path) -> None:
    """The build fails on scripts, styles and pictures of another host, not on links that a reader may follow."""
    (tmp_path / name).write_text(text)
    assert _script("build_site").fetched(tmp_path) == ([name] if found else [])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_page_shows_a_mistake(path: Path) -> None:
    """Printed outputs hold no error, except where the page means to show one and prints the exit code or JSON."""
    for block in blocks(path, "console"):
        assert not re.search(r"Traceback|jq: error|command not found|No such file", block), block[:200]
        meant = 'echo "exit $?"' in block or path.stem in ("advise", "json", "shell")
        assert meant or not re.search(r'^kvcalc: |^\{"error"', block, re.MULTILINE), block[:200]


def shell(line: str, folder: Path, tools: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """A recipe's lines in bash: this checkout's kvcalc, and a pip that has nothing left to install."""
    env = {**DOCS.shell_env(tools), "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    (tools / "pip").write_text("#!/bin/sh\nexit 0\n")
    (tools / "pip").chmod(0o755)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line], cwd=folder, env=env, input=given, capture_output=True, text=True
    )


def commands(node: Any) -> Iterator[str]:
    """What a YAML recipe would run: `run` texts, `script` lists, `command` and `args` of the kvcalc image."""
    if isinstance(node, list):
        for item in node:
            yield from commands(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("run"), str):
        yield node["run"]
    if isinstance(node.get("script"), list):
        yield "\n".join(node["script"])
    words = [str(word) for word in (*node.get("command", ()), *node.get("args", ()))]
    if words and "kvcalc" in node["image"]:
        yield " ".join(f"'{word}'" for word in words)
    for value in node.values():
        yield from commands(value)


def yaml_commands() -> list[Any]:
    found = [
        (path.stem, line)
        for path in RECIPES
        for block in blocks(path, "yaml")
        for document in yaml.safe_load_all(block)
        for line in commands(document)
    ]
    return [pytest.param(line, id=f"{name}-{number}") for number, (name, line) in enumerate(found)]


def test_yaml_recipes_are_found() -> None:
    """The extraction sees the two CI systems and the two Kubernetes objects."""
    lines = [param.values[0] for param in yaml_commands()]
    assert sum(bool(re.search(r"kvcalc'? '?(fit|plan)\b", line)) for line in lines) == 4


@pytest.mark.parametrize("line", yaml_commands())
def test_yaml_recipe_runs(line: str, tmp_path: Path) -> None:
    """What a pipeline or a container of a recipe runs exits with 0."""
    folder, tools = tmp_path / "work", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    done = shell(line, folder, tools)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [path for path in RECIPES if blocks(path, "sh")], ids=lambda path: path.stem)
def test_shell_recipes_run(path: Path, tmp_path: Path) -> None:
    """Every `sh` block of a page runs, in order, in one folder."""
    folder, tools = tmp_path / "work", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    for block in blocks(path, "sh"):
        done = shell(block, folder, tools)
        assert done.returncode == 0, done.stdout + done.stderr


def test_terraform_gets_a_flat_object_of_strings(tmp_path: Path) -> None:
    """The program of the external data source answers the recipe's own query with the names that the recipe reads."""
    page = ROOT / "docs/recipes/terraform.md"
    (program,), (configuration,) = blocks(page, "bash"), blocks(page, "hcl")
    query = re.search(r"query = \{(.*?)\}", configuration, re.DOTALL)
    assert query is not None
    asked = dict(re.findall(r"(\w+)\s*=\s*\"([^\"]*)\"", query.group(1)))
    tools = tmp_path / "tools"
    tools.mkdir()
    done = shell(program, tmp_path, tools, given=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert all(isinstance(value, str) for value in answer.values())
    assert set(re.findall(r"\.result\.(\w+)", configuration)) <= set(answer)
    refused = shell(program, tmp_path, tools, given=json.dumps({**asked, "sessions": "4000"}))
    assert json.loads(refused.stdout)["fits"] == "false"
    broken = shell(program, tmp_path, tools, given=json.dumps({**asked, "model": "no-such-model"}))
    assert broken.returncode != 0


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "pycon")], ids=lambda path: path.stem)
def test_python_sessions_print_what_they_show(path: Path) -> None:
    """Every `pycon` block of a page is true, in order, in one session."""
    text = "\n".join(blocks(path, "pycon"))
    test = DocTestParser().get_doctest(text, {}, path.stem, str(path), 0)
    assert test.examples
    said: list[str] = []
    result = DocTestRunner(optionflags=ELLIPSIS).run(test, out=said.append)
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("name", ["vllm", "sglang", "llama.cpp", "tensorrt-llm"])
def test_a_documented_log_line_is_read(name: str) -> None:
    """Each line of the table, its numbers filled in, is a line that `explain-log` recognises."""
    from kvcalc.explain_log.wording import READERS

    tables = _script("engine_tables")
    reader = next(reader for reader in READERS if reader.engine == name)
    for rule in reader.rules:
        names = {group: fact for group, (fact, _) in rule.reads.items()}
        line = tables.template(rule.pattern, names).replace("\\|", "|")
        filled = re.sub(r"<(\w+)>", lambda match: _sample(match.group(1)), line)
        read = [{fact.name for fact in rule.facts(filled.replace("…", gap), 1)} for gap in ("", " ", "x")]
        assert set(names.values()) in read, line


def _sample(fact: str) -> str:
    """A number of the right form; sizes have decimals, tokens have none."""
    samples = {"version": "0.6.0", "type_k": "f16", "type_v": "f16", "mem_fraction_static": "0.88"}
    return samples.get(fact, "1234")
