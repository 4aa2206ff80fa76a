"""How many answers a second one core gives through the Python API, from the one forward function.

    python benchmarks/throughput.py

Cost must not depend on context length or layer count: each model is timed at 1k and at 1M tokens, and a model of
10 layers beside the same one of 1000.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kvcalc.answers.common import Ask, prepare
from kvcalc.core.capacity import max_context, max_sessions
from kvcalc.core.plan import Load, Planner
from kvcalc.document import model_from_document
from kvcalc.registry import load_registry
from kvcalc.targets import Target, load_target

MODELS = ("llama3", "deepseek-v2", "gemma3-27b", "qwen3-next-80b", "deepseek-v4-flash")
POOL = 40 * 2**30


def per_second(call: Callable[[int], object], *, seconds: float = 0.5) -> int:
    """Calls per CPU second."""
    done, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for _ in range(200):
            call(done)
            done += 1
    return round(done / spent)


def planner_of(target: Target) -> Planner:
    return prepare(target, Ask(), gpu=None).planner


def main() -> None:
    registry = load_registry()
    print(f"{'model':24} {'size @1k/s':>12} {'size @1M/s':>12} {'max context/s':>14} {'max sessions/s':>15}")
    targets = {name: load_target(name, registry) for name in MODELS}
    for layers in (10, 1000):
        doc = {
            "name": f"{layers} layers",
            "layers": layers,
            "dtype": "bfloat16",
            "attention": {
                "local": {"kind": "gqa", "heads": 32, "groups": 8, "head_dim": 128, "window": 1024},
                "global": {"kind": "gqa", "heads": 32, "groups": 8, "head_dim": 128},
            },
            "pattern": ["local*4", "global"],
        }
        targets[doc["name"]] = Target(model=model_from_document(doc), origin="benchmark")
    for name, target in targets.items():
        planner = planner_of(target)
        row = [
            per_second(lambda i, p=planner: p.plan(Load(1000 + i % 999, 4)).max_rank_bytes),
            per_second(lambda i, p=planner: p.plan(Load(2**20 + i % 999, 4)).max_rank_bytes),
            per_second(lambda i, p=planner: max_context(p, POOL + i * 4099, sessions=2)),
            per_second(lambda i, p=planner: max_sessions(p, POOL + i * 4099, context_tokens=8192)),
        ]
        print(f"{name:24} {row[0]:12,} {row[1]:12,} {row[2]:14,} {row[3]:15,}")


if __name__ == "__main__":
    main()
