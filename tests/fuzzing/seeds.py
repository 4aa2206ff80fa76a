"""Sound cases of every format: what is shipped, what the tests keep from the world, one of each rule."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from gguf_bytes import TensorInfo, gguf_bytes

from fuzzing.case import Case

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
#: A published Llama, the file beside which others lie.
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "hidden_size": 4096, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def model() -> list[Case]:
    """Shipped models, as YAML and as JSON, and the smallest block of every kind."""
    import yaml
    from sound import BLOCKS, document

    files = sorted((ROOT / "model_configs").glob("*.yaml"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    cases: list[Case] = [{"model.yaml": path.read_bytes()} for path in files]
    cases += [{"model.json": _json(yaml.load(path.read_bytes(), Loader=loader))} for path in files[::4]]
    cases += [{"model.yaml": _json(document({"kind": kind, **block}))} for kind, block in BLOCKS.items()]
    every = {kind: {"kind": kind, **block} for kind, block in BLOCKS.items() if kind != "shared"}
    every["again"] = {"kind": "shared", "of": "gqa"}
    whole = document(every) | {"layers": 40, "pattern": [*every, ["gqa", "mamba2"], "none*3"]}
    return [*cases, {"model.yaml": _json(whole)}]


def config() -> list[Case]:
    """Published configs, the ones with layer lists, and one of every model_type that transformers has a class for."""
    from kvcalc.importers.families import FAMILIES
    from kvcalc.importers.hf import class_defaults

    configs = [json.loads(line)["config"] for line in (DATA / "hf" / "configs.jsonl").read_text().splitlines()]
    configs += [json.loads(line)["config"] for line in (DATA / "hf" / "layer_types.jsonl").read_text().splitlines()]
    for name in sorted({*FAMILIES, *class_defaults()}):
        plain = LLAMA | {"model_type": name, **class_defaults().get(name, {})}
        configs += [plain, {"model_type": name, "text_config": plain, "torch_dtype": "float16"}]
    return [{"config.json": _json(item)} for item in configs]


def gguf() -> list[Case]:
    """The headers that llama.cpp itself answered for, some with a tensor table, some in two parts."""
    with gzip.open(DATA / "llamacpp" / "b11549.json.gz") as stream:
        shapes = json.load(stream)["shapes"]
    tensors = [TensorInfo("token_embd.weight", (512, 1000), 12), TensorInfo("blk.0.attn_k.weight", (512, 64), 8)]
    cases: list[Case] = [{"m.gguf": gguf_bytes(shape["metadata"])} for shape in shapes]
    for shape in shapes[::6]:
        keys = shape["metadata"]
        vocabulary = {"tokenizer.ggml.tokens": ["a", "bc", "déf"], "general.file_type": 7}
        cases.append({"m.gguf": gguf_bytes(keys | vocabulary, tensors)})
        first, second = ({"split.count": 2, "split.no": number, "split.tensors.count": 2} for number in (0, 1))
        parts = (gguf_bytes(keys | first, tensors[:1]), gguf_bytes(second, tensors[1:]))
        cases.append({f"m-0000{number + 1}-of-00002.gguf": data for number, data in enumerate(parts)})
    return cases


_WORKLOADS: list[dict[str, Any]] = [
    {"prompt": {"p50": 900, "p95": 3000, "max": 16384}, "output": {"p50": 150, "p95": 800, "max": 2048}},
    {"prompt": {"mean": 900, "sigma": 0.8}, "output": {"uniform": [10, 700]}, "shared_prompt": 1200},
    {"prompt": {"fixed": 512}, "output": 128, "arrivals": "poisson"},
    {"prompt": {"p50": 900, "p99": 9000}, "output": {"p50": 100, "p90": 200}, "arrivals": "closed"},
    {
        "mix": [
            {"weight": 0.7, "prompt": {"p50": 200, "sigma": 1.1}, "output": {"fixed": 64}},
            {"weight": 0.3, "prompt": {"uniform": [4000, 4100]}, "output": {"mean": 300, "sigma": 0.5, "max": 4096}},
        ],
        "shared_prompt": 0,
    },
]


def workload() -> list[Case]:
    """Every shape of the documentation as YAML and JSON; traces as CSV and JSON lines."""
    pairs = [(900, 150), (3000, 800), (1, 1), (16384, 2048), (77, 5)]
    table = "prompt_tokens,output_tokens\n" + "".join(f"{first},{second}\n" for first, second in pairs)
    more = 'id,output_tokens,prompt_tokens\n"a,b",3,4\r\nx,10,20\r\n'
    records = [{"prompt_tokens": first, "output_tokens": second} for first, second in pairs]
    lines = "\n".join(json.dumps(record) for record in records)
    cases: list[Case] = [{f"w.{kind}": _json(doc)} for doc in _WORKLOADS for kind in ("yaml", "json")]
    block = b"prompt:\n  p50: 900\n  p95: 3000\noutput: {p50: 150, p95: 800}\n"
    return [*cases, {"w.yaml": block}, {"w.csv": table.encode()}, {"w.csv": more.encode()}, {"w.jsonl": lines.encode()}]


def log() -> list[Case]:
    """The public start-up logs and refusals that the tests keep."""
    with (DATA / "explain_log" / "public_logs.json").open() as stream:
        texts = ["\n".join(row["log"]) for row in json.load(stream)]
    texts += [path.read_text() for path in sorted((DATA / "logs").iterdir())]
    return [{"start.log": text.encode()} for text in texts]


def safetensors() -> list[Case]:
    """A checkpoint's folder: one file, two files with an index, an index alone."""

    def file(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape, size) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        raw = _json(header)
        return len(raw).to_bytes(8, "little") + raw + bytes(at)

    one = file({"model.embed.weight": ("BF16", [4, 8], 64), "b": ("F8_E4M3", [16], 16), "ids": ("I64", [2], 16)})
    two = file({"w": ("U8", [3, 5], 15), "w_scale": ("F32", [], 4), "p": ("F4", [7], 4)})
    index = {"metadata": {"total_size": 1000}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}
    named = {"model.safetensors.index.json": _json(index), "config.json": _json(LLAMA)}
    return [
        {"config.json": _json(LLAMA), "model.safetensors": one},
        {"config.json": _json(LLAMA), "model.safetensors": two},
        {"config.json": _json(LLAMA), "model.safetensors.index.json": _json(index)},
        dict(reversed(named.items())) | {"x-1.safetensors": one, "x-2.safetensors": two},
    ]


def measurement() -> list[Case]:
    """Measurements as `measure --save` wrote them."""
    files = sorted((ROOT / "docs" / "measurements").rglob("*.json"))
    return [{"saved.json": path.read_bytes()} for path in files]


def arguments() -> list[Case]:
    """Calls as people type them, one list of words each."""
    calls = [
        ["compare", "llama3", "deepseek-v2"], ["size", "llama3", "-c", "128k", "-n", "4", "--json"],
        ["size", "gemma-3-27b", "-e", "vllm", "-o", "block_size=32", "--tp", "2"], ["engines", "vllm"],
        ["fit", "llama-3-70b", "--gpu", "h100:8", "--tp", "8", "--kv-dtype", "fp8", "--format", "csv"],
        ["fit", "llama3", "--pool", "24GiB", "-c", "1m", "-n", "3", "--weight-dtype", "fp8", "--format=plain"],
        ["sessions", "llama3", "--gpu", "h100", "--input", "p50=900,p95=3000", "--output", "uniform=100-700"],
        ["variants", "llama3", "--latent-dim", "512", "--window", "1024"],
        ["explain", "deepseek-v2", "--format", "markdown"],
        ["plan", "llama3", "--users", "200", "--gpu", "h100-80gb", "--input", "512", "--output", "128"],
        ["models", "--format", "csv"], ["gpus"], ["dtypes", "--json"], ["schema", "size"], ["validate", "nowhere.yaml"],
        ["size", "llama3", "--kv-dtype", "k=q8_0,v=q4_0", "-e", "llama.cpp", "-o", "n_ctx=8192"], ["--version"],
    ]  # fmt: skip
    return [{"call.json": _json(words)} for words in calls]


_MAKERS = {
    "model": model, "config": config, "gguf": gguf, "workload": workload, "log": log, "safetensors": safetensors,
    "measurement": measurement, "arguments": arguments,
}  # fmt: skip


@cache
def seeds(name: str) -> tuple[Case, ...]:
    """The sound cases of one format."""
    return tuple(_MAKERS[name]())


@cache
def words(name: str) -> list[str]:
    """Keys that the format's readers know, and the command line's words."""
    from kvcalc.cli.spec import COMMANDS

    if name == "arguments":
        flags = [flag for spec in COMMANDS.values() for option in spec.options for flag in option.flags]
        return sorted({*COMMANDS, *flags, "--help", "--", "-", "-x", "llama3", "8k"})
    if name == "gguf":
        from fuzzing.gguf_parts import take_apart

        parts = [take_apart(data) for case in seeds(name) for data in case.values()]
        keys = [entry.key.decode() for item in parts if item is not None for entry in item.entries]
        return sorted(
            {key.partition(".")[2] for key in keys} | {"attention.indexer.key_length", "nextn_predict_layers"}
        )
    from fuzzing.mutate import read_tree
    from fuzzing.trees import KEYS, places

    trees = [read_tree(data) for case in seeds(name) for data in case.values()]
    return sorted(
        {*KEYS, *(key for tree in trees for _, key in places(tree) if isinstance(key, str) and len(key) < 60)}
    )
