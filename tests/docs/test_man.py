"""The man page: every command and option in it, and no warning from the formatters that are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kvcalc.cli.spec import COMMANDS, examples

PAGE = Path(__file__).resolve().parents[2] / "docs" / "man" / "kvcalc.1"


def test_every_command_option_and_example_is_in_it() -> None:
    """What the table of commands knows, the page says."""
    text = PAGE.read_text().replace("\\-", "-").replace("\\e", "\\")
    for name, spec in COMMANDS.items():
        assert f".SS {name}\n" in text
        assert all(line in text for line in examples(spec))
        for option in spec.options:
            assert all(f"\\fB{flag}\\fR" in text for flag in option.flags)
            assert " ".join(option.help.split()) in text


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc here")
def test_mandoc_has_nothing_to_say() -> None:
    """`mandoc -T lint` is silent about anything but style."""
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(PAGE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_man_shows_it() -> None:
    """`man -l` renders it, without warnings."""
    command = ["man", "--warnings", "-E", "UTF-8", "-P", "cat", "-l", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "exact KV-cache memory for LLM serving" in done.stdout
