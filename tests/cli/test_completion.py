"""Tab completion: what is offered for each word, and that bash, zsh and fish really get it."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from calling import ROOT, Call, program

from kvcalc.cli.complete import ARGUMENTS, VALUES, Offer, offer
from kvcalc.cli.completion import SHELLS
from kvcalc.cli.spec import COMMANDS
from kvcalc.engines import engine_names, get_engine
from kvcalc.registry import load_registry


def words(line: str) -> list[str]:
    """The candidates for the last word of `line` (a blank at the end: an empty word)."""
    return [word for word, _ in offer(line.split(" ")).words]


def test_commands_come_first() -> None:
    """The first word is a command or one of two options."""
    assert words("") == [*COMMANDS, "--help", "--version"]
    assert words("comp") == ["compare", "completion"]
    assert offer([]).words == offer([""]).words
    assert words("nonsense x") == []


def test_models_by_name_and_alias() -> None:
    """A target is a shipped model, once typing begins an alias, or a file."""
    registry = load_registry()
    assert words("size ") == registry.model_names()
    assert "deepseek-v3" in words("compare llama3 deepseek-v")
    assert "llama3" in words("size llama3")
    assert offer(["size", "x"]).files
    assert words("size LLAMA-3-8") == ["llama-3-8b"]
    assert words("size llama3 ") == []  # one target only
    assert words("compare llama3 mixtral-8x7") != []


def test_options_not_yet_given() -> None:
    """An option is offered once, unless it may be repeated; the value of one is not taken for a flag."""
    assert "--context" in words("size llama3 --")
    assert "--context" not in words("size llama3 -c 8k --")
    assert "--option" in words("size llama3 -o a=1 --")
    assert words("size llama3 --kv-d") == ["--kv-dtype"]
    assert words("size llama3 -n") == ["-n"]
    assert "--help" in words("dtypes --")


def test_values() -> None:
    """GPUs with their number, engines with versions, types, formats, engine options of the engine that was named."""
    assert words("fit llama3 --gpu h100-8")[0] == "h100-80gb"
    assert words("fit llama3 --gpu h100-80gb:")[:3] == ["h100-80gb:1", "h100-80gb:2", "h100-80gb:4"]
    assert words("plan llama3 --gpu h100-80gb,b20")[0] == "h100-80gb,b200"
    assert all(word.startswith("h100-80gb,b20") for word in words("plan llama3 --gpu h100-80gb,b20"))
    assert words("fit llama3 -e ") == list(engine_names())
    assert words("fit llama3 -e vllm@0.3") == [f"vllm@{v}" for v in get_engine("vllm")[0].versions if v[:3] == "0.3"]
    assert words("fit llama3 --engines vllm,sgl") == ["vllm,sglang"]
    assert words("fit llama3 --kv-dtype fp8_e5") == ["fp8_e5m2"]
    assert words("fit llama3 --kv-dtype k=q8_0,v=q8") == ["k=q8_0,v=q8_0"]
    assert words("fit llama3 --format ") == ["table", "plain", "json", "csv", "markdown"]
    assert words("fit llama3 --format=j") == ["--format=json"]
    assert words("schema fi") == ["fit"]
    assert words("engines vl") == ["vllm"]
    assert words("gpus h200") != []
    assert words("completion z") == ["zsh"]


def test_engine_options_follow_the_engine() -> None:
    """-o offers the keys of the engine of -e with =, then their choices."""
    assert words("fit llama3 -o ") == [f"{option.name}=" for option in get_engine("ideal")[0].options]
    keys = words("fit llama3 -e vllm -o ")
    assert keys == [f"{option.name}=" for option in get_engine("vllm")[0].options]
    assert offer(["fit", "llama3", "-e", "vllm", "-o", "max"]).nospace
    assert words("fit llama3 -e vllm -o enforce_eager=") == ["enforce_eager=on", "enforce_eager=off"]
    assert words("fit llama3 -e vllm -o nonsense=") == []


def test_paths() -> None:
    """Files and directories are the shell's to complete."""
    assert offer(["fit", "x", "--from-log", ""]) == Offer(files=True)
    assert offer(["fit", "x", "--models-dir", ""]) == Offer(dirs=True)
    assert offer(["validate", ""]) == Offer(files=True)
    assert offer(["import", "x", "-o", ""]) == Offer(files=True)


def test_every_option_that_names_something_is_completed() -> None:
    """An option whose value is one of ours (a type, an engine, a GPU ...) has a completer; so has every argument."""
    guessed = ("TYPE", "FORMAT", "KEY=VALUE", "NAME[:N]", "TARGET", "LIST")
    for spec in COMMANDS.values():
        for option in spec.options:
            if option.metavar in guessed and option.flags[0] != "--gpus":
                assert option.name in VALUES, option.flags
    for name, spec in COMMANDS.items():
        argument = spec.argument
        if argument is not None and "FILE" not in argument.metavar.split("|")[0]:
            assert argument.name in ARGUMENTS or f"{name} {argument.name}" in ARGUMENTS, name


@pytest.mark.parametrize(
    "line", ["fit x -e nonsense -o a", "size --models-dir /nonexistent x", "fit x -e nope@1", "\x00", "size \udcff"]
)
def test_nothing_goes_wrong_at_a_tab(call: Call, line: str) -> None:
    """Whatever was typed, exit 0 and silence on stderr."""
    done = call("__complete", *line.split(" "))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("words")


def test_a_tab_imports_no_parser() -> None:
    """Neither typer nor rich, yaml or pydantic: a Tab costs what an answer costs."""
    probe = "import sys; from kvcalc.__main__ import main; main(sys.argv[1:]); sys.stderr.write(' '.join(sys.modules))"
    load_registry()
    for line in (["size", "llama-3"], ["fit", "x", "-e", "vllm", "-o", "max"]):
        done = subprocess.run(
            [sys.executable, "-S", "-c", probe, "__complete", *line],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.count("\n") > 2
        assert set(done.stderr.split()).isdisjoint({"typer", "click", "rich", "yaml", "pydantic", "pathlib"})


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_printed(call: Call, shell: str) -> None:
    """`kvcalc completion SHELL` prints its script, and says what a wrong name should be."""
    done = call("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "__complete" in done.out
    assert call("completion", "zhs").code == 2
    assert "did you mean zsh?" in call("completion", "zhs").err


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with `kvcalc` on the PATH of the shells under test, and a file that looks like a target."""
    tool = tmp_path / "bin" / "kvcalc"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m kvcalc "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "zz-mine.yaml").write_text("")
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(program("completion", shell).out)
    return tmp_path


def typed(home: Path, command: list[str], *, setup: str, cases: list[tuple[str, str]]) -> list[str]:
    """The lines that an interactive shell does not complete as they should be: each typed with its Tab and wiped."""
    environment = {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb"}
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(home)
        os.execvpe(command[0], command, environment)

    def shows(text: str, mark: str) -> bool:
        os.write(terminal, text.encode())
        seen, end = "", time.monotonic() + 20
        while mark not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536).decode(errors="replace").replace("\a", "")
        return mark in seen

    try:
        assert shows(f"{setup}; PS1='> '; echo rea''dy\n", "ready\r\n")
        return [line for line, mark in cases if not shows(f"\x15{line}", mark)]
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


CASES = [
    ("kvcalc comple\t", "kvcalc completion "),
    ("kvcalc size deepseek-v3.\t", "deepseek-v3."),
    ("kvcalc fit x --gpu rtx-6000-ad\t", "--gpu rtx-6000-ada"),
    ("kvcalc fit x --gpu rtx-4090:6\t", "rtx-4090:64"),
    ("kvcalc fit x --format=js\t", "--format=json"),
    ("kvcalc fit x -e tran\t", "-e transformers"),
    ("kvcalc fit x -e vllm -o enforce_e\t", "enforce_eager="),
    ("kvcalc fit x -e vllm -o enforce_eager=of\t", "enforce_eager=off"),
    ("kvcalc size zz-m\t", "zz-mine.yaml"),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash(home: Path) -> None:
    """An interactive bash completes every line."""
    command = ["bash", "--norc", "--noprofile", "-i"]
    assert typed(home, command, setup="source script.bash", cases=CASES) == []


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh(home: Path) -> None:
    """An interactive zsh completes every line."""
    setup = "autoload -U compinit; compinit -u -D; source script.zsh"
    assert typed(home, ["zsh", "-f", "-i"], setup=setup, cases=CASES) == []


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish(home: Path) -> None:
    """fish completes every line: `complete -C` is what its Tab asks."""
    environment = {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home)}
    asked = "; ".join(f"complete -C {line.strip()!r}; echo ---" for line, _ in CASES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source script.fish; {asked}"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    for (line, mark), answer in zip(CASES, done.stdout.split("---\n"), strict=False):
        last = mark.strip().rpartition(" ")[2]
        assert any(word.startswith(last) for word in answer.splitlines()), (line, done)
