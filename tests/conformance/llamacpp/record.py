"""Writes what the installed llama.cpp answers to a part of the suite, for tests that run without the library.

python tests/conformance/llamacpp/record.py tests/data/llamacpp/b11549.json.gz
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from gguf_bytes import gguf_bytes  # noqa: E402
from live import LiveEngine, engine_options  # noqa: E402
from options import SERVER, fixed  # noqa: E402
from shapes import CUT, REAL, SMALL, cut, metadata  # noqa: E402

#: Every third option set: each rule is among them.
OPTIONS = fixed()[::3]
SIZES = ("n_ctx", "n_ctx_seq", "n_batch", "n_ubatch", "context_bytes")


def answer(said: dict[str, Any]) -> Any:
    """Sizes as a list, a refusal as its words, an abort as null."""
    if "context_bytes" in said:
        return [said[name] for name in SIZES]
    return said["refused"].split(": ", 1)[-1] if "refused" in said else None


def main() -> None:
    """One line of the file per shape."""
    shapes = []
    with tempfile.TemporaryDirectory() as folder, LiveEngine() as engine:
        path = Path(folder) / "shape.gguf"
        for name, (architecture, whole) in (REAL | SMALL).items():
            keys = cut(whole, CUT[name]) if name in CUT else whole
            path.write_bytes(gguf_bytes(metadata(architecture, keys)))
            said = engine.ask(path, [engine_options(item) for item in OPTIONS])
            if "context_bytes" in said[0]:
                head = metadata(architecture, keys)
                shapes.append({"name": name, "metadata": head, "answers": [answer(item) for item in said]})
    changed = [{key: value for key, value in item.items() if value != SERVER[key]} for item in OPTIONS]
    text = json.dumps({"server": SERVER, "options": changed, "sizes": SIZES, "shapes": shapes}, separators=(",", ":"))
    Path(sys.argv[1]).write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
