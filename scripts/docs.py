"""Keeps the documentation true: runs every `$ kvcalc ...` in it, rewrites the generated tables, draws the diagrams.

    python scripts/docs.py           rewrite README.md and docs/*.md
    python scripts/docs.py --check   exit 1 where a file would change

A fenced `console` block holds commands (`$ kvcalc ...`) and what they print; lines that begin with `> ` continue a
command. A plain kvcalc command runs in this process, anything with a pipe or a loop in bash. A block between
`<!-- generated: NAME -->` and `<!-- end -->` is a table made from the registries; `NAME:WORD` passes the word on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"(<!-- generated: ([^\s:]+):?(\S*) -->\n).*?(<!-- end -->)", re.DOTALL)
_SHELL = re.compile(r"[|;<>`\n]|&&|\$\(")


def run(command: str) -> str:
    """What a command prints, in plain text as in a pipe (stdout, then stderr)."""
    if not _SHELL.search(command):
        return "".join(in_process(command))
    first, pipe, rest = command.partition(" | ")
    if pipe and not _SHELL.search(first) and first.count("'") % 2 == 0 and "kvcalc" not in rest and "$" not in rest:
        out, err = in_process(first)  # one kvcalc, then filters: no second interpreter needs to start
        return in_bash(rest, out) + err
    return in_bash(command)


def in_process(command: str) -> tuple[str, str]:
    """Standard output and standard error of a plain kvcalc command."""
    from kvcalc.__main__ import main

    words = shlex.split(command, comments=True)
    if words[:1] != ["kvcalc"]:
        raise SystemExit(f"documentation runs kvcalc and the shell around it: {command}")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main(words[1:])
    return out.getvalue(), err.getvalue()


def in_bash(command: str, given: str = "") -> str:
    """What a pipeline or a loop prints, run in an empty folder."""
    with tempfile.TemporaryDirectory() as tools, tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["bash", "-c", command],
            input=given,
            cwd=folder,
            env=shell_env(Path(tools)),
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stdout + done.stderr


def shell_env(tools: Path) -> dict[str, str]:
    """An environment whose PATH begins with `tools`: there `kvcalc` is this checkout, and `jq` is there for sure."""
    scripts = {"kvcalc": f'exec "{sys.executable}" -m kvcalc "$@"\n'}
    if shutil.which("jq") is None:
        scripts["jq"] = f'exec "{sys.executable}" "{Path(__file__).with_name("jq_filter.py")}" "$@"\n'
    for name, line in scripts.items():
        (tools / name).write_text("#!/bin/sh\n" + line)
        (tools / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def commands(block: str) -> list[str]:
    """The commands of a console block: `$ ` begins one, `> ` continues it, everything else is output."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line.startswith("> ") and found:
            found[-1] += "\n" + line[2:]
    return found


def console_block(match: re.Match[str]) -> str:
    """The block with every command's present output."""
    shown = (f"$ {command.replace(chr(10), chr(10) + '> ')}\n{run(command)}" for command in commands(match.group(1)))
    return "```console\n" + "".join(shown) + "```"


def table(titles: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def kinds_table() -> str:
    """Every kind: what it keeps and the paper or engine that says so."""
    import inspect

    from kvcalc.kinds import kinds_by_tag

    tags: dict[type, list[str]] = {}
    for tag, cls in kinds_by_tag().items():
        tags.setdefault(cls, []).append(tag)
    rows = []
    for cls, names in tags.items():
        text = inspect.getdoc(cls) or ""
        source = " ".join(text.partition("Source: ")[2].split("\n\n")[0].split())
        rows.append([", ".join(f"`{name}`" for name in names), " ".join(text.split("\n\n")[0].split()), source])
    return table(["kind", "what a layer keeps", "source"], rows)


def engines_table() -> str:
    from kvcalc.engines import engine_names, get_engine

    engines = [get_engine(name)[0] for name in engine_names()]
    rows = [[f"`{e.name}`", ", ".join(e.versions), e.summary, e.verified_by] for e in engines]
    return table(["engine", "versions", "what it models", "proved by"], rows)


def dtypes_table() -> str:
    from kvcalc.dtypes import DTYPES

    rows = [
        [f"`{d.name}`", ", ".join(d.aliases), f"{d.block_bytes} / {d.block_elements}", f"{d.bits_per_element:g}"]
        for d in DTYPES.values()
    ]
    return table(["dtype", "also", "bytes / elements", "bits per element"], rows)


def exit_codes_table() -> str:
    from kvcalc.errors import EXIT_CODES

    return table(["exit code", "meaning"], [[str(code), text] for code, text in EXIT_CODES.items()])


def commands_table() -> str:
    from kvcalc.cli.spec import COMMANDS

    return table(["command", "answers"], [[f"`kvcalc {name}`", spec.summary] for name, spec in COMMANDS.items()])


def models_table() -> str:
    from kvcalc.registry import load_registry

    models = load_registry().models()
    rows = [
        [f"`{m.name}`", ", ".join(m.aliases), " + ".join(f"{n} {k}" for k, n in m.kinds_summary().items())]
        for m in models
    ]
    return table([f"model ({len(rows)})", "also", "layers"], rows)


def gpus_table() -> str:
    from kvcalc.registry import load_registry

    gpus = load_registry().gpus()
    rows = [[f"`{g.name}`", g.product, f"{g.total_bytes:,}", g.total_is] for g in gpus]
    return table([f"GPU ({len(rows)})", "product", "bytes", "total is"], rows)


def beside(module: str, function: str, *words: str) -> Any:
    """What `function` of a script that lies beside this file returns."""
    spec = importlib.util.spec_from_file_location(f"kvcalc_{module}", Path(__file__).with_name(f"{module}.py"))
    if spec is None or spec.loader is None:
        raise SystemExit(f"scripts/{module}.py is missing")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, function)(*words)


#: One shipped model per way of caching, for the page that sets engines beside kinds.
SHOWN_BY = {
    "MHA": "llama-2-7b",
    "MQA": "falcon-7b",
    "GQA": "llama-3-8b",
    "window": "gemma-3-27b",
    "window, alternating": "gpt-oss-20b",
    "chunk": "llama-4-scout",
    "MLA": "deepseek-v3",
    "MLA + indexer": "deepseek-v3.2",
    "CSA / HCA": "deepseek-v4-flash",
    "shared KV": "gemma-3n-e4b",
    "Mamba": "falcon-mamba-7b",
    "Mamba-2 hybrid": "nemotron-h-8b",
    "Gated DeltaNet": "qwen3-next-80b-a3b",
    "KDA": "kimi-linear-48b-a3b",
    "short conv": "lfm2-1.2b",
    "encoder-decoder": "whisper-large-v3",
}


def engine_kinds_table() -> str:
    """One session of 32,768 tokens: bytes over the tensor-level minimum, engine by engine; why where it is refused."""
    from kvcalc.answers.common import Ask, prepare
    from kvcalc.engines import engine_names
    from kvcalc.errors import KvcalcError
    from kvcalc.registry import load_registry
    from kvcalc.targets import load_target

    registry = load_registry()
    engines = [name for name in engine_names() if name != "ideal"]
    rows, refusals = [], []
    for kind, name in SHOWN_BY.items():
        target = load_target(name, registry)
        cells = []
        least = 0
        for engine in ("ideal", *engines):
            try:
                ready = prepare(target, Ask(context_tokens=32768, engine=engine), tp=1, gpu=None)
                held = ready.planner.plan(ready.load).max_rank_bytes
            except KvcalcError as error:
                cells.append("refused")
                refusals.append(f"- {engine}, {name}: {error}")
                continue
            least = least or held
            cells.append(f"{held / least:.2f}")
        rows.append([kind, f"`{name}`", *cells[1:]])
    return table(["kind", "shown by", *engines], rows) + "\nRefused:\n\n" + "\n".join(refusals) + "\n"


def sweep_columns_table() -> str:
    """Every column of `kvcalc sweep`; which of them need a GPU or a pool."""
    from kvcalc.answers.sweep import COLUMNS

    kinds = {int: "integer", str: "text", bool: "boolean"}
    rows = [[f"`{c.name}`", kinds[c.kind], c.means + (" (with a pool)" if c.pool else "")] for c in COLUMNS]
    return table(["column", "type", "meaning"], rows)


GENERATED: dict[str, Callable[..., str]] = {
    "kinds": kinds_table,
    "engines": engines_table,
    "engine-kinds": engine_kinds_table,
    "dtypes": dtypes_table,
    "exit-codes": exit_codes_table,
    "commands": commands_table,
    "models": models_table,
    "gpus": gpus_table,
    "accuracy": lambda: beside("accuracy", "summary"),
    "accuracy-line": lambda: beside("accuracy", "line"),
    "accuracy-by-engine": lambda: beside("accuracy", "sections"),
    "engine-options": lambda name: beside("engine_tables", "options", name),
    "log-lines": lambda name: beside("engine_tables", "log_lines", name),
    "answer-common": lambda: beside("answer_tables", "common"),
    "answer-fields": lambda: beside("answer_tables", "fields"),
    "scenarios": lambda name: beside("scenarios", "answers", name),
    "sweep-columns": sweep_columns_table,
}


def refreshed(text: str) -> str:
    """`text` with every console block run and every generated table made anew."""
    text = _CONSOLE.sub(console_block, text)
    return _GENERATED.sub(generated_block, text)


def generated_block(match: re.Match[str]) -> str:
    """The block with its table made anew; a word after the name's colon goes to its maker."""
    head, name, word, end = match.groups()
    return head + GENERATED[name](*([word] if word else [])) + end


def files() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def stale() -> list[Path]:
    """The files whose content is not what they would be now."""
    return [path for path in files() if path.exists() and refreshed(path.read_text()) != path.read_text()]


def schema_files() -> dict[Path, str]:
    """Generated files: the JSON Schemas of a model file and of each command's answer, and the man page."""
    from kvcalc.answers.schemas import ANSWERS, schema_of
    from kvcalc.render.jsonout import json_text

    schemas = {ROOT / "docs" / "schema" / f"{name}.json": json_text(schema_of(name)) for name in ("model", *ANSWERS)}
    return schemas | {ROOT / "docs" / "man" / "kvcalc.1": beside("man", "man_page")}


def made_files() -> dict[Path, str]:
    """Every file that is wholly generated: schemas and diagrams."""
    return {**schema_files(), **beside("diagrams", "pictures")}


def main(arguments: list[str]) -> int:
    os.chdir(ROOT)
    made = made_files()
    old = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    changed = stale()
    if "--check" in arguments:
        for path in (*changed, *old):
            print(f"{path.relative_to(ROOT)} is out of date: run python scripts/docs.py")
        return 1 if changed or old else 0
    for path in changed:
        path.write_text(refreshed(path.read_text()))
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path])
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main(sys.argv[1:]))
