"""How long one answer takes as a process, beside `python -c pass` and, where installed, other calculators.

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
#: Llama-3-8B and DeepSeek-V2 as config.json: the question peers are asked (one of them reads MLA models only).
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
MLA = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "hidden_size": 5120,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
}


def commands(config: Path, latent: Path, checkpoint: Path) -> dict[str, list[str]]:
    """What is timed, each by its own console script; a peer only where its command is found.

    Peers are looked for beside this interpreter, on the PATH, and in the folders of KVCALC_PEERS (os.pathsep between).
    """
    folders = [str(Path(sys.executable).parent), *os.environ.get("KVCALC_PEERS", "").split(os.pathsep)]
    path = os.pathsep.join([*filter(None, folders), os.environ.get("PATH", "")])
    kvcalc = [shutil.which("kvcalc", path=path) or sys.exit("no kvcalc script: pip install . first")]
    found = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "kvcalc compare A B --json": [*kvcalc, "compare", "llama3", "deepseek-v2", "--json"],
        "kvcalc compare A B --format plain": [*kvcalc, "compare", "llama3", "deepseek-v2", "--format", "plain"],
        "kvcalc compare A B --format table": [*kvcalc, "compare", "llama3", "deepseek-v2", "--format", "table"],
        "kvcalc size config.json --json": [*kvcalc, "size", str(config), "--json"],
        "kvcalc --help": [*kvcalc, "--help"],
    }
    peers = {
        # They read the config.json and answer.
        "vramcalc config.json": ["vramcalc", str(config)],
        "llm-mem --config config.json": ["llm-mem", "--config", str(latent)],
        "modelinfo model.safetensors": ["modelinfo", str(checkpoint)],
        # They ask a server for the file; without one only their start can be timed.
        "kvfit --version (start only)": ["kvfit", "--version"],
        "hf-mem --help (start only)": ["hf-mem", "--help"],
        # A model compiled into the tool; no file is read.
        "ridgepoint fit llama-3-8b (built in)": ["ridgepoint", "fit", "llama-3-8b"],
    }
    scripts = {name: shutil.which(command[0], path=path) for name, command in peers.items()}
    return found | {name: [script, *peers[name][1:]] for name, script in scripts.items() if script}


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
        config, latent, checkpoint = (Path(folder) / name for name in ("config.json", "mla.json", "model.safetensors"))
        config.write_text(json.dumps(CONFIG))
        latent.write_text(json.dumps(MLA))
        header = json.dumps({"w": {"dtype": "BF16", "shape": [16, 16], "data_offsets": [0, 512]}}).encode()
        checkpoint.write_bytes(len(header).to_bytes(8, "little") + header + bytes(512))
        timed = commands(config, latent, checkpoint)
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
