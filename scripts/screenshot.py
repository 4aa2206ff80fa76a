"""Draws docs/images/compare.svg, what `kvcalc compare` looks like in a terminal; the same answer gives the same file.

python scripts/screenshot.py           write it
python scripts/screenshot.py --check   exit 1 where it shows other words or numbers than the command now
"""

from __future__ import annotations

import io
import re
import sys
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "images" / "compare.svg"
COMMAND = ["compare", "llama3.1-8b", "gemma3-27b", "deepseek-v3", "qwen3-next-80b", "gpt-oss-20b", "-c", "128k"]
WIDTH = 112


def drawn() -> str:
    """The SVG: rich's own export, without the web font it would fetch."""
    from rich import _export_format
    from rich.console import Console

    from kvcalc.answers.compare import compare
    from kvcalc.cli.given import Given
    from kvcalc.cli.quick import parse
    from kvcalc.render.table import print_table
    from kvcalc.render.views import VIEWS

    parsed = parse(COMMAND)
    if parsed is None:
        raise SystemExit(f"not a plain call: {COMMAND}")
    given = Given(parsed[1])
    ask, registry = given.ask(), given.registry()
    gpu, notes = given.gpu_or_default(ask, registry)
    answer = compare(given.targets(registry), ask, gpu)
    answer["assumptions"] = [*notes, *answer["assumptions"]]
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(f"$ kvcalc {' '.join(COMMAND)}", style="bold green")
    print_table(VIEWS["compare"](answer), console)
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\n", "", _export_format.CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    without_fonts = without_fonts.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    return console.export_svg(title="kvcalc", code_format=without_fonts, unique_id="kvcalc")


def texts(svg: str) -> list[str]:
    """The words of a screenshot, whatever release of rich placed them."""
    found = re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    return " ".join(unescape(text).replace("\xa0", " ") for text in found).split()


def main(arguments: list[str]) -> int:
    svg = drawn()
    if "--check" in arguments:
        current = FILE.exists() and texts(FILE.read_text(encoding="utf-8")) == texts(svg)
        if not current:
            print(f"{FILE.relative_to(ROOT)} is out of date: run python scripts/screenshot.py")
        return 0 if current else 1
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main(sys.argv[1:]))
