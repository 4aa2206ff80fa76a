"""`plot`: the curves are the planners' own numbers, and the pictures are sound files that need nothing beside them."""

from __future__ import annotations

import os
import re
import stat
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from calling import Call
from sound import TINY

from kvcalc.answers.curves import PER_OCTAVE, each_point, grid
from kvcalc.core.drawn import CurvePoint
from kvcalc.errors import EngineRefusal
from kvcalc.render.plot.axis import bytes_axis, counts_axis, tokens_axis
from kvcalc.render.plot.image import spread

GIB = 2**30
#: meta-llama/Meta-Llama-3-8B config.json: 32 layers, 8 KV heads of 128; K and V in 2 bytes.
LLAMA3 = 32 * 2 * 8 * 128 * 2
#: google/gemma-3-27b-it config.json: 62 layers, every sixth global, 16 KV heads of 128, window 1024.
GEMMA_LAYER, GEMMA_GLOBAL, GEMMA_LOCAL = 2 * 16 * 128 * 2, 10, 52
#: deepseek-ai/DeepSeek-V2 config.json: 60 layers, 512 latent and 64 rotary elements in 2 bytes.
DEEPSEEK = 60 * (512 + 64) * 2
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>$x^2$_&amp;"


@pytest.fixture
def plot(call: Call) -> Any:
    """The answer of `kvcalc plot ... --json`."""

    def run(*arguments: str) -> Any:
        done = call("plot", *arguments, "--json")
        assert (done.code, done.err) == (0, "")
        return done.answer

    return run


def _values(record: dict[str, Any], key: str) -> dict[int, int]:
    return {point["context_tokens"]: point[key] for point in record["points"]}


def test_curves_are_what_the_shapes_say(plot: Any) -> None:
    """GQA and MLA are straight lines, a windowed hybrid bends at its window, at every point and as integers."""
    answer = plot("llama3", "gemma3-27b", "deepseek-v2", "--from", "100", "--to", "200000")
    llama, gemma, deepseek = (_values(record, "total_bytes") for record in answer["results"])
    for tokens in llama:
        assert llama[tokens] == LLAMA3 * tokens
        assert deepseek.get(tokens, DEEPSEEK * tokens) == DEEPSEEK * tokens
    for tokens, held in gemma.items():
        assert type(held) is int
        assert held == GEMMA_LAYER * (GEMMA_GLOBAL * tokens + GEMMA_LOCAL * min(tokens, 1024))
    assert {100, 1024, 131072, 200000} <= set(gemma)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp"])
def test_sessions_are_those_that_fit_finds(call: Call, plot: Any, engine: str) -> None:
    """Each point of `--what sessions` is what `fit` answers at that context on the same GPU."""
    record = plot("llama3.1-8b", "--what", "sessions", "--gpu", "h200", "-e", engine, "--to", "64k")["results"][0]
    for tokens in (1024, 1280, 8192, 65536):
        fit = call("fit", "llama3.1-8b", "--gpu", "h200", "-e", engine, "-c", str(tokens), "--json").answer
        point = next(point for point in record["points"] if point["context_tokens"] == tokens)
        for key in ("pool_bytes", "max_sessions", "low_sessions"):
            assert point[key] == fit[key]
        assert point["low_sessions"] <= point["max_sessions"] <= point["high_sessions"]


def test_a_pool_holds_so_many_sessions(plot: Any) -> None:
    """64 GiB hold 64 GiB / (131,072 B x tokens) sessions of Llama-3-8B."""
    record = plot("llama3", "--what", "sessions", "--pool", "64GiB", "--to", "1m")["results"][0]
    assert _values(record, "max_sessions") == {
        point["context_tokens"]: 64 * GIB // (LLAMA3 * point["context_tokens"]) for point in record["points"]
    }


def test_a_ledger_sums_to_the_memory(plot: Any) -> None:
    """The lines of each bar sum to its pool, and the need is that of the asked load."""
    bar = plot("llama3", "--what", "ledger", "--gpu", "h100-80gb", "-c", "32k", "-n", "3")["results"][0]
    assert sum(line["bytes"] for line in bar["ledger"]) == bar["pool_bytes"]
    assert bar["needed_bytes"] == LLAMA3 * 32768 * 3


def test_the_grid_has_the_round_contexts() -> None:
    """Both ends, every power of two between them, and the marks; nothing outside, nothing twice."""
    found = grid(1000, 100000, [4321, 7])
    assert found == sorted(set(found))
    assert {1000, 100000, 4321, *(2**power for power in range(10, 17))} <= set(found)
    assert found[0] == 1000
    assert found[-1] == 100000
    assert len(found) <= 8 * PER_OCTAVE


def test_series_are_named_by_what_differs(plot: Any) -> None:
    """Several engines and types are series of their own, each under the engine's rules and in its type."""
    answer = plot("llama3", "--engines", "ideal,vllm", "--kv-dtype", "bf16,fp8", "--to", "8k")
    assert [record["name"] for record in answer["results"]] == [
        "ideal in bfloat16",
        "ideal in fp8_e4m3",
        "vllm in bfloat16",
        "vllm in fp8_e4m3",
    ]
    at_end = [_values(record, "total_bytes")[8192] for record in answer["results"]]
    assert at_end[0] == 2 * at_end[1] == LLAMA3 * 8192
    alike = plot("llama3", "llama-3-8b", "llama3", "--to", "8k")["results"]
    assert len({record["name"] for record in alike}) == 3
    several = plot("llama3", "deepseek-v2", "--engines", "ideal,vllm", "--to", "8k")["results"]
    assert several[3]["name"] == "deepseek-v2 on vllm"
    assert [record["name"] for record in plot("llama3", "--to", "8k")["results"]] == ["llama-3-8b"]
    assert plot("llama3", "--kv-dtype", "k=q8_0,v=q4_0")["results"][0]["kv_dtype"] == {"key": "q8_0", "value": "q4_0"}


def test_who_refuses_is_named_and_the_others_are_drawn(plot: Any) -> None:
    """A model that an engine does not run is left out with the reason; the rest is answered."""
    answer = plot("llama3", "falcon-mamba-7b", "-e", "exllamav3")
    assert [record["name"] for record in answer["results"]] == ["llama-3-8b"]
    assert [row["model"] for row in answer["refused"]] == ["falcon-mamba-7b"]
    assert "no architecture" in answer["refused"][0]["reason"]


def test_csv_has_a_row_per_point(call: Call, plot: Any) -> None:
    """CSV is one row per point of every series, in raw integers."""
    rows = call("plot", "llama3", "deepseek-v2", "--to", "8k", "--format", "csv").out.splitlines()
    assert rows[0].startswith("series,model,engine,")
    assert len(rows) == 1 + sum(len(r["points"]) for r in plot("llama3", "deepseek-v2", "--to", "8k")["results"])
    assert f"llama-3-8b,llama-3-8b,ideal,1,bfloat16,bfloat16,exact,1,8192,{LLAMA3 * 8192},{LLAMA3 * 8192}" in rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["llama3", "--output", "a.gif"], "cannot be written as 'a.gif'"),
        (["llama3", "--output", "no/such/folder/a.png"], "cannot write no/such/folder/a.png"),
        (["llama3", "-o", "a.svg"], "write --output a.svg"),
        (["llama3", "--what", "colours"], "--what cannot be 'colours'"),
        (["llama3", "--scale", "sqrt"], "--scale cannot be 'sqrt'"),
        (["llama3", "--from", "8k", "--to", "4k"], "there is nothing to draw"),
        (["llama3", "--to", "1t"], "to must be a positive whole number of tokens"),
        (["llama3", "-c", "8k"], "--context changes nothing"),
        (["llama3", "--what", "sessions", "-n", "2"], "--sessions changes nothing"),
        (["llama3", "--what", "ledger", "--to", "8k"], "--to changes nothing"),
        (["llama3", "-e", "vllm", "--engines", "all"], "--engine contradicts --engines"),
        (["llama3", "--engines", "vllm,nonsense"], "unknown engine"),
        (["nonsense"], "unknown model"),
        (["llama3"] * 25, "25 series are more than one picture shows"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_say_what_and_write_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """What cannot be drawn or written is a usage error, and no file appears."""
    monkeypatch.chdir(tmp_path)
    done = call("plot", *arguments)
    assert done.code == 2
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_contexts_an_engine_refuses_are_left_out_and_told() -> None:
    """The points that an engine takes are drawn, the span of the others is said; of none the refusal is the answer."""

    def at(tokens: int) -> CurvePoint:
        if tokens < 4:
            raise EngineRefusal("too short")
        return {"context_tokens": tokens, "total_bytes": tokens, "rank_bytes": tokens}

    said: list[tuple[str, str]] = []
    assert [point["context_tokens"] for point in each_point([1, 2, 4, 8], at, said)] == [4, 8]
    assert said == [("warning", "not drawn from 1 to 2 tokens: too short")]
    with pytest.raises(EngineRefusal):
        each_point([1, 2], at, said)


def test_axes_have_round_ticks_that_fit() -> None:
    """Tokens at powers of two with 8k among them, sizes in whole units, counts at 1-2-5; few labels, rising."""
    axes = [
        *(tokens_axis(1, 2**power, log=log) for power in range(3, 41) for log in (True, False)),
        *(bytes_axis("", [3, 10**power], log=log) for power in range(1, 19) for log in (True, False)),
        *(counts_axis("", [2, 10**power + 7], log=log) for power in range(10) for log in (True, False)),
    ]
    for axis in axes:
        assert 1 <= len(axis.ticks) <= 10
        assert axis.places == sorted(set(axis.places))
        assert axis.low <= axis.places[0]
        assert axis.places[-1] <= axis.high
        assert len(set(axis.labels)) == len(axis.labels)
    assert {"2k", "8k", "32k", "128k"} <= set(tokens_axis(1024, 131072 * 8, log=True).labels)
    assert bytes_axis("", [0, 20 * GIB], log=False).labels == ["0", "5 GiB", "10 GiB", "15 GiB", "20 GiB"]
    assert counts_axis("", [3, 900], log=True).labels == ["2", "5", "10", "20", "50", "100", "200", "500", "1,000"]


def test_names_do_not_touch() -> None:
    """Names are pushed apart to their least distance, in order, inside the picture while there is room."""
    for wished in ([0.5] * 8, [0.0, 0.0, 0.02, 0.98, 1.0, 1.0], [0.1, 0.4, 0.9], [0.99] * 5):
        found = spread(wished, 0.05)
        assert all(later - earlier >= 0.05 - 1e-6 for earlier, later in pairwise(found))
        assert min(found) >= 0
        assert max(found) <= 1
    assert spread([0.1, 0.4, 0.9], 0.05) == [0.1, 0.4, 0.9]


def test_lines_that_hide_each_other_are_named(call: Call) -> None:
    """A model whose curve lies on another's is named in the picture, and a context with no session is a sentence."""
    out = call("plot", "llama3", "llama3.1-8b", "--to", "8k", "--scale", "linear", "--format", "table").out
    assert "llama-3.1-8b: the same as llama-3-8b" in out
    done = call("plot", "llama3", "--what", "sessions", "--pool", "1MiB", "--format", "table")
    assert (done.code, "not one session fits" in done.err) == (2, True)


def test_a_refusal_of_all_is_the_engines_own(call: Call) -> None:
    """Where the engine runs none of them, its refusal is the answer."""
    done = call("plot", "falcon-mamba-7b", "-e", "exllamav3")
    assert done.code == 1
    assert "no architecture" in done.err


@pytest.mark.parametrize(("library", "name"), [("matplotlib", "a.svg"), ("plotly.graph_objects", "a.html")])
def test_a_missing_library_names_the_extra(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, name: str
) -> None:
    """Without the drawing library the error says what to install; the numbers need none."""
    monkeypatch.setitem(sys.modules, library, None)
    done = call("plot", "llama3", "--output", str(tmp_path / name))
    assert (done.code, "kvcalc[plot]" in done.err) == (2, True)
    assert call("plot", "llama3").code == 0


def test_without_plotext_curves_stay_numbers(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the terminal's curves."""
    monkeypatch.setitem(sys.modules, "plotext", None)
    done = call("plot", "llama3", "--format", "table")
    assert (done.code, "kvcalc[plot]" in done.err) == (2, True)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_images_are_sound_and_repeat(call: Call, tmp_path: Path, kind: str) -> None:
    """PNG and SVG are what their names say, the same bytes each time, without a date, and replace the old file."""
    model = tmp_path / "m.yaml"
    model.write_text(TINY.replace("name: tiny", f"name: '{HOSTILE}'"))
    path = tmp_path / f"a.{kind}"
    path.write_text("old")
    arguments = ["plot", str(model), "llama3", "gemma3-27b", "--what", "sessions", "--gpu", "h200", "--output"]
    done = call(*arguments, str(path))
    assert (done.code, done.err, done.out) == (0, "", f"wrote {path}\n")
    again = tmp_path / f"b.{kind}"
    call(*arguments, str(again))
    content = path.read_bytes()
    assert content == again.read_bytes()
    assert sorted(found.name for found in tmp_path.iterdir()) == [f"a.{kind}", f"b.{kind}", "m.yaml"]
    if kind == "png":
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert content.endswith(b"IEND\xaeB`\x82")
        return
    tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(content).iter()}
    assert tags >= {"svg", "path"}
    assert not tags & {"script", "img", "image", "foreignObject"}
    assert not re.search(rb"<dc:date>|20\d\d-\d\d-\d\dT", content)


def test_nothing_is_left_behind_where_a_folder_is_in_the_way(call: Call, tmp_path: Path) -> None:
    """A file that cannot be put in its place leaves no part of it."""
    (tmp_path / "a.png").mkdir()
    done = call("plot", "llama3", "--what", "ledger", "--pool", "24GiB", "--output", str(tmp_path / "a.png"))
    assert (done.code, "cannot write" in done.err) == (2, True)
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_written_file_has_the_usual_mode(call: Call, tmp_path: Path) -> None:
    """A picture is readable as any file the user makes."""
    mask = os.umask(0o027)
    try:
        call("plot", "llama3", "--what", "ledger", "--pool", "24GiB", "--output", str(tmp_path / "a.png"))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


class Loads(HTMLParser):
    """What a page would fetch, which elements it has, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One element."""
        self.tags.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "data", "action", "srcset") and not (value or "").startswith("data:"):
                self.fetched.append(f"{tag} {key} {value}")
            if key.startswith("on"):
                self.fetched.append(f"{tag} {key}")
            if key == "id":
                self.ids.append(value or "")


@pytest.mark.parametrize("what", ["context", "sessions", "ledger"])
def test_the_page_fetches_nothing(call: Call, tmp_path: Path, what: str) -> None:
    """One page with its script inside: no element loads anything, no name becomes markup, no button sends data away."""
    model = tmp_path / "m.yaml"
    model.write_text(TINY.replace("name: tiny", f"name: '{HOSTILE}'"))
    load = [] if what == "context" else ["--gpu", "h100"]
    for name in ("a.html", "b.html"):
        done = call("plot", str(model), "llama3", "--what", what, *load, "--output", str(tmp_path / name))
        assert (done.code, done.err) == (0, "")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.html").read_text(encoding="utf-8")
    page = Loads(text)
    assert page.fetched == []
    assert page.ids == ["kvcalc-plot"]
    assert page.tags.count("script") == 3  # plotly's settings, plotly, the figure
    assert "img" not in page.tags
    assert "default-src 'none'" in text
    figure = text[text.rindex("<script") :]
    assert '"modeBarButtons"' in figure
    assert "alert(1)<" not in figure


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
@pytest.mark.parametrize("columns", [60, 110])
def test_the_terminals_picture_fits_its_width(
    call: Call, monkeypatch: pytest.MonkeyPatch, columns: int, term: str
) -> None:
    """No line is wider than the screen; a dumb terminal gets ASCII only; every series has its letter and name."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", term)
    out = call("plot", "llama3", "gemma3-27b", "--format", "table").out
    assert max(map(len, out.splitlines())) <= columns
    assert out.isascii() == (term == "dumb")
    assert "\x1b" not in out
    assert "a  llama-3-8b" in out
    assert "b  gemma-3-27b" in out
    for tick in ("8k", "32k", "128k", "1 GiB"):
        assert tick in out


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
@pytest.mark.parametrize("columns", [40, 60, 110])
def test_the_terminals_ledger_fits_its_width(
    call: Call, monkeypatch: pytest.MonkeyPatch, columns: int, term: str
) -> None:
    """Bars are as wide as the screen, end where the memory ends, and say each part's size."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", term)
    arguments = ["llama3", "--what", "ledger", "--pool", "24GiB", "-c", "64k"]
    out = call("plot", *arguments, "--format", "table").out
    assert max(map(len, out.splitlines())) <= columns
    assert out.isascii() == (term == "dumb")
    drawn, free = ("=", ".") if term == "dumb" else ("▓", "·")
    bar = next(line for line in out.splitlines() if drawn * 9 in line)
    assert bar.count(drawn) == (columns - 2) // 3  # 8 of 24 GiB
    assert bar.endswith(free * 9 + "|")
    assert "asked load 8.00 GiB" in out
    assert "16.00 GiB" in out.replace("\n ", "")
