"""How long one answer takes as a process, beside `python -c pass` and, where installed, peers that read a config.

    python benchmarks/cold_start.py [--rounds 15]

Prints medians of CPU and wall time of the whole process and their ratio to `python -c pass`; all commands are run in
turn within one round, so that a busy machine slows them alike. Absolute times mean nothing on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Llama-3-8B as a config.json, the question peers are asked.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def commands(config: Path) -> dict[str, list[str]]:
    """What is timed; a peer only where its command is on the PATH."""
    kvcalc = [sys.executable, "-m", "kvcalc"]
    found = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import typer'": [sys.executable, "-c", "import typer"],
        "kvcalc compare A B --json": [*kvcalc, "compare", "llama3", "deepseek-v2", "--json"],
        "kvcalc compare A B --format plain": [*kvcalc, "compare", "llama3", "deepseek-v2", "--format", "plain"],
        "kvcalc compare A B --format table": [*kvcalc, "compare", "llama3", "deepseek-v2", "--format", "table"],
        "kvcalc size config.json --json": [*kvcalc, "size", str(config), "--json"],
        "kvcalc --help": [*kvcalc, "--help"],
    }
    peers = {
        "vramcalc": ["vramcalc", str(config)],
        "kvfit": ["kvfit", "estimate", str(config)],
        "llm-mem": ["llm-mem", "--config", str(config)],
    }
    return found | {name: command for name, command in peers.items() if shutil.which(command[0])}


def once(command: list[str]) -> tuple[float, float]:
    """(CPU ms, wall ms) of one process and its children."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu * 1000, wall * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.chdir(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without byte code every start compiles: not what users have
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(CONFIG))
        timed = commands(config)
        for command in timed.values():
            once(command)  # byte code and the registry cache
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
        for _ in range(asked.rounds):
            for name, command in timed.items():
                runs[name].append(once(command))
    base = statistics.median(cpu for cpu, _ in runs["python -c pass"])
    rows = {}
    for name, pairs in runs.items():
        cpu, wall = statistics.median(c for c, _ in pairs), statistics.median(w for _, w in pairs)
        rows[name] = {"cpu_ms": round(cpu, 1), "wall_ms": round(wall, 1), "ratio": round(cpu / base, 2)}
    if asked.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'command':40} {'CPU ms':>8} {'wall ms':>8} {'x pass':>7}")
    for name, row in rows.items():
        print(f"{name:40} {row['cpu_ms']:8.1f} {row['wall_ms']:8.1f} {row['ratio']:7.2f}")


if __name__ == "__main__":
    main()
