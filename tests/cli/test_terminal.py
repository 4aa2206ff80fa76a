"""On a terminal: colour there and only there, and narrow screens that cut no number and split no word."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping

import pytest
from calling import ROOT, Call
from test_commands import CALLS

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
#: What a table draws: rules, bars, and the marks of a stacked row.
DRAWN = re.compile(r"[─█▏▎▍▌▋▊▉]+")
#: Longer than any line of the narrowest screen below: such a word has to be broken somewhere.
UNBREAKABLE = 34


def on_a_terminal(arguments: list[str], *, columns: int, env: Mapping[str, str]) -> str:
    """What a terminal of that width is sent."""
    leader, follower = pty.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "kvcalc", *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color", **env},
        )
    finally:
        os.close(follower)
    sent = b""
    try:
        while chunk := os.read(leader, 65536):
            sent += chunk
    except OSError:  # Linux says EIO when the last follower closes
        pass
    finally:
        os.close(leader)
    assert process.wait(timeout=60) == 0
    return sent.decode().replace("\r\n", "\n")


def test_a_terminal_gets_a_coloured_table() -> None:
    """On a terminal `compare` prints a table with colour, as wide as the screen at most."""
    sent = on_a_terminal(["compare", "llama3", "deepseek-v2"], columns=100, env={})
    assert COLOUR.search(sent)
    text = ESCAPE.sub("", sent)
    assert "─" * 20 in text
    assert max(map(len, text.splitlines())) <= 100
    assert "131,072" in text


def test_no_color_is_respected() -> None:
    """NO_COLOR: the same table without any colour code."""
    arguments = ["compare", "llama3", "deepseek-v2"]
    sent = on_a_terminal(arguments, columns=100, env={"NO_COLOR": "1"})
    assert not COLOUR.search(sent)
    assert ESCAPE.sub("", sent) == ESCAPE.sub("", on_a_terminal(arguments, columns=100, env={}))


def test_a_dumb_terminal_gets_no_codes() -> None:
    """TERM=dumb: no escape code at all."""
    assert "\x1b" not in on_a_terminal(["dtypes"], columns=80, env={"TERM": "dumb"})


def test_json_on_a_terminal_is_plain() -> None:
    """`--json` prints the same bytes on a terminal as in a pipe."""
    arguments = ["size", "llama3", "--json"]
    pipe = subprocess.run([sys.executable, "-m", "kvcalc", *arguments], cwd=ROOT, capture_output=True, check=True)
    assert on_a_terminal(arguments, columns=40, env={}) == pipe.stdout.decode()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("command", [command for command in CALLS if command != "plot"])  # draws: test_plot.py
def test_narrow_terminals(call: Call, monkeypatch: pytest.MonkeyPatch, command: str, columns: int) -> None:
    """No line is wider than the screen, every word and number of it is a whole one of the plain answer."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", str(columns))
    plain = call(command, *CALLS[command], "--format", "plain").out
    table = call(command, *CALLS[command], "--format", "table").out
    assert max(len(line.rstrip()) for line in table.splitlines()) <= columns
    words, known = DRAWN.sub(" ", table).split(), set(plain.split())
    long = [word for word in known if len(word) > UNBREAKABLE]
    for word in words:
        bare = word.removesuffix(":")
        assert word in known or bare in known or any(word in each for each in long), f"{word!r} is cut"


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_narrow_terminals_keep_the_answer(call: Call, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """However narrow: bytes per token, cache, ratio, longest context and sessions stay on the screen."""
    monkeypatch.setenv("COLUMNS", str(columns))
    table = call("compare", "llama3", "deepseek-v2", "--pool", "64GiB", "--format", "table").out
    for number in ("131,072", "1.00 GiB", "0.25", "524,288", "64", "69,120", "540.0 MiB", "0.0141", "994,205", "121"):
        assert number in table
