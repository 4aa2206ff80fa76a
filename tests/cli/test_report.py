"""`report`: one page made of the other commands' answers, safe to open, and made again by the command it names."""

from __future__ import annotations

import shlex
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from calling import Call
from markdown_it import MarkdownIt
from sound import TINY

ARGUMENTS = ["llama3", "gemma3-27b", "--gpu", "h200", "-e", "vllm", "-c", "32k", "-n", "16"]
WORKLOAD = "prompt: {p50: 900, p95: 3000, max: 16384}\noutput: {p50: 150, p95: 800, max: 2048}\n"
HOSTILE = "<script>alert(1)</script>[a](javascript:x)|`c`**b**![i](http://h/x.png)"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements, what they would fetch, the words; raises where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One element; an image must be inside the page."""
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            inside = key == "src" and (value or "").startswith("data:image/svg+xml;base64,")
            if (key in ("src", "href", "action", "srcset") and not inside) or key.startswith("on"):
                self.fetched.append(f"{tag} {key} {value}")

    def handle_endtag(self, tag: str) -> None:
        """Closes the innermost open one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        self.words += data


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A model file whose name is markup in HTML and in markdown."""
    path = tmp_path / "m.yaml"
    path.write_text(TINY.replace("name: tiny", f"name: '{HOSTILE}'"))
    return str(path)


def test_it_is_made_of_the_other_answers(call: Call, tmp_path: Path) -> None:
    """Comparison, ledgers, curves and sessions are those of the commands, to the last field."""
    (tmp_path / "w.yaml").write_text(WORKLOAD)
    workload = ["--workload", str(tmp_path / "w.yaml")]
    answer = call("report", *ARGUMENTS, *workload, "--json").answer
    assert answer["compare"] == call("compare", *ARGUMENTS, "--json").answer
    assert [record["name"] for record in answer["results"]] == ["llama-3-8b", "gemma-3-27b"]
    options = ARGUMENTS[2:]
    assert answer["results"][0]["fit"] == call("fit", "llama3", *options, "--json").answer
    asked = ["sessions", "gemma3-27b", "--gpu", "h200", "-e", "vllm", "-c", "32k", *workload]
    assert answer["results"][1]["sessions"] == call(*asked, "--json").answer
    context = call("plot", "llama3", "gemma3-27b", "-e", "vllm", "--gpu", "h200", "-n", "16", "--json").answer
    assert answer["curves"][0]["results"] == context["results"]
    assert [curve["inputs"]["what"] for curve in answer["curves"]] == ["context", "sessions", "ledger"]


def test_the_page_is_sound_and_says_the_numbers(call: Call, tmp_path: Path, hostile: str) -> None:
    """HTML: every tag is closed, nothing is fetched, a name stays a name, the pictures are inside."""
    path = tmp_path / "r.html"
    done = call("report", hostile, "llama3", "--gpu", "h200", "-c", "32k", "-n", "16", "--output", str(path))
    assert (done.code, done.err, done.out) == (0, "", f"wrote {path}\n")
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.fetched == []
    assert page.tags.count("img") == 3
    assert "script" not in page.tags
    assert HOSTILE in page.words
    for word in ("64.00 GiB", "68,719,476,736", "FITS", "exact", "estimate", "driver's total", "Meta-Llama-3-8B"):
        assert word in page.words


@pytest.mark.parametrize("kind", ["html", "md"])
def test_the_command_it_names_makes_it_again(call: Call, tmp_path: Path, kind: str) -> None:
    """The command in the report, run by a shell's rules, writes the same bytes."""
    (tmp_path / "my workload.yaml").write_text(WORKLOAD)
    path = tmp_path / f"r.{kind}"
    workload = ["--workload", str(tmp_path / "my workload.yaml"), "--no-plots"]
    assert call("report", *ARGUMENTS, *workload, "--output", str(path)).code == 0
    first = path.read_text(encoding="utf-8")
    line = next(line for line in unescape(first).splitlines() if "kvcalc report" in line)
    words = shlex.split(line.replace("<pre><code>", "").replace("</code></pre>", ""))
    path.unlink()
    assert call(*words[1:]).code == 0
    assert path.read_text(encoding="utf-8") == first


def test_markdown_shows_names_as_they_are(call: Call, tmp_path: Path, hostile: str) -> None:
    """Markdown: a name with markup is text in every heading, sentence and cell: no tag, link, image or code."""
    path = tmp_path / "r.md"
    assert call("report", hostile, "llama3", "--pool", "24GiB", "--output", str(path)).code == 0
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(path.read_text(encoding="utf-8"))
    leaves = [leaf for token in tokens for leaf in (token.children or [token])]
    assert not {leaf.type for leaf in leaves} & {"html_block", "html_inline", "link_open", "image", "code_inline"}
    shown = ["".join(leaf.content for leaf in token.children or []) for token in tokens if token.type == "inline"]
    assert shown.count(HOSTILE) >= 4  # its heading, a verdict, a row of the comparison, its label
    assert "131,072" in shown


def test_printed_without_a_file(call: Call) -> None:
    """Without --output the report is printed like any answer; CSV is the comparison's."""
    done = call("report", *ARGUMENTS)
    assert done.code == 0
    assert "= Side by side" in done.out
    assert call("report", *ARGUMENTS, "--format", "csv").out == call("compare", *ARGUMENTS, "--format", "csv").out


def test_who_is_refused_is_named(call: Call, tmp_path: Path) -> None:
    """A model that the engine does not run is left out with the reason; of none there is no report."""
    path = tmp_path / "r.md"
    options = ["-e", "exllamav3", "--gpu", "h100"]
    done = call("report", "llama3", "falcon-mamba-7b", *options, "--output", str(path))
    assert done.code == 0
    assert "exllamav3 refuses falcon-mamba-7b" in done.err
    assert "exllamav3 refuses falcon-mamba-7b" in path.read_text()
    assert call("report", "falcon-mamba-7b", *options).code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "r.pdf"], "cannot be written as 'r.pdf'"),
        (["--output", "no/folder/r.md"], "cannot write no/folder/r.md"),
        (["--workload", "nowhere.yaml", "--output", "r.md"], "nowhere.yaml does not exist"),
    ],
)
def test_errors_write_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """What cannot be written or read is a usage error, and no file appears."""
    monkeypatch.chdir(tmp_path)
    done = call("report", "llama3", *arguments)
    assert done.code == 2
    assert said in done.err
    assert list(tmp_path.iterdir()) == []
