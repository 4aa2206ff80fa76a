"""Measures the caches of seven architectures on this machine's GPU and keeps the reports under docs/measurements/.

    python benchmarks/measure_all.py                 every case, on the CUDA device
    python benchmarks/measure_all.py --device cpu --contexts 512,1024 --limit 64MiB

Each case is one `kvcalc measure ... --save`; a case that does not fit the card is listed and left out. The last one
per model is an `--until-full` run. `kvcalc measure FILE --check` holds any of the files against today's prediction.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kvcalc.__main__ import main as kvcalc

#: One model of each way to keep a past; mamba-codestral-7b is Mamba-2.
MODELS = (
    "llama-3-8b",
    "deepseek-v2",
    "gemma-3-27b",
    "gpt-oss-20b",
    "qwen3-next-80b-a3b",
    "mamba-codestral-7b",
    "deepseek-v4-flash",
)
DTYPES = ("bf16", "fp8")
TENSOR_PARALLEL = ("1", "8")
#: The model whose whole card is filled.
FULL_MODEL = "llama-3-8b"
OK, DIFFERS, CANNOT = 0, 1, 4


def cases(contexts: list[str], sessions: list[str], models: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(file name, arguments) of every measurement."""
    for model, context, count, dtype, tp in itertools.product(models, contexts, sessions, DTYPES, TENSOR_PARALLEL):
        options = ["-c", context, "-n", count, "--kv-dtype", dtype, "--tp", tp]
        yield f"{model}-c{context}-n{count}-{dtype}-tp{tp}", [model, *options]


def measure(arguments: list[str], path: Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, answer, and what was said on stderr, of one `kvcalc measure`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = kvcalc(["measure", *arguments, "--save", str(path), "--json"])
    said = json.loads(err.getvalue())["error"]["message"] if code not in (OK, DIFFERS) else ""
    return code, json.loads(out.getvalue()) if out.getvalue() else {}, said


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def device_folder(out: Path, where: list[str]) -> Path:
    """The folder of this device's reports, named after the card."""
    probe = out / "probe.json"
    code, answer, said = measure([MODELS[0], "-c", "1", *where], probe)
    probe.unlink(missing_ok=True)
    if code != OK:
        sys.exit(f"cannot measure here: {said or 'the smallest cache already differs'}")
    device = answer["device"]
    folder = out / slug(device["name"] if device["device"] != "cpu" else "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def line(name: str, code: int, answer: dict[str, Any], said: str) -> str:
    if not answer:
        return f"{name:<55} left out: {said}"
    verdict = "equal" if code == OK else "DIFFERS"
    allocated, reserved = answer["allocated_bytes"], answer["reserved_bytes"]
    rank = answer["measured_ranks"][0]
    as_ruled = (allocated, reserved) == (rank["expected_allocated_bytes"], rank["expected_reserved_bytes"])
    rules = "" if allocated is None else f" allocated {allocated:,} reserved {reserved:,}, rules hold: {as_ruled}"
    return f"{name:<55} {verdict:<8} {answer['requested_bytes']:>16,}{rules}"


def main() -> int:
    """Run every case; exit 1 when one differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--contexts", default="8k,32k", help="contexts, separated by commas")
    parser.add_argument("--sessions", default="1,8", help="session counts, separated by commas")
    parser.add_argument("--models", default=",".join(MODELS), help="models, separated by commas")
    parser.add_argument("--limit", help="memory that the --until-full run may take (needed on cpu)")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs" / "measurements")
    given = parser.parse_args()
    device = ["--device", given.device]
    given.out.mkdir(parents=True, exist_ok=True)
    folder = device_folder(given.out, device)
    contexts, sessions, models = given.contexts.split(","), given.sessions.split(","), given.models.split(",")
    full = [FULL_MODEL if FULL_MODEL in models else models[0], "-c", contexts[0], "--until-full"]
    full += ["--limit", given.limit] if given.limit else []
    counts = {OK: 0, DIFFERS: 0, CANNOT: 0}
    for name, arguments in [*cases(contexts, sessions, models), (f"{full[0]}-until-full", full)]:
        code, answer, said = measure([*arguments, *device], folder / f"{name}.json")
        counts[code] = counts.get(code, 0) + 1
        print(line(name, code, answer, said), flush=True)
    print(f"{counts[OK]} equal, {counts[DIFFERS]} differ, {counts[CANNOT]} do not fit; reports in {folder}")
    others = sum(count for code, count in counts.items() if code not in (OK, DIFFERS, CANNOT))
    return 1 if counts[DIFFERS] or others else 0


if __name__ == "__main__":
    sys.exit(main())
