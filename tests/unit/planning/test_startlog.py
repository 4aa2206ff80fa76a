"""Start-up logs as engines wrote them (quoted in public issues and repositories), read into figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calling import Call

from kvcalc.errors import UsageError
from kvcalc.planning.amount import gib_of
from kvcalc.planning.startlog import StartLog, read_log
from kvcalc.units import GIB, MIB

#: vLLM 0.8.5 (V0), one GPU of 23.65 GiB.
V0 = """INFO 06-26 17:45:59 [model_runner.py:1202] Model loading took 0.6951 GiB and 0.204926 seconds
INFO 06-26 17:46:00 [worker.py:291] the current vLLM instance can use total_gpu_memory (23.65GiB) x \
gpu_memory_utilization (0.40) = 9.46GiB
INFO 06-26 17:46:00 [worker.py:291] model weights take 0.70GiB; non_torch_memory takes 0.07GiB; PyTorch activation \
peak memory takes 1.12GiB; the rest of the memory reserved for KV Cache is 7.57GiB."""
#: vLLM of 2026-08 (0.25 line): weights, peak and non-torch apart, graph estimate set aside.
APART = """[gpu_worker.py:793] CUDA graph pool memory: 4.13 GiB (actual), 4.99 GiB (estimated), difference: 0.86 GiB.
[gpu_worker.py:857] Free memory on device (181.84/184.31 GiB) on startup. Desired GPU memory utilization is (0.92, \
169.56 GiB). Actual usage is 106.69 GiB for weight, 6.31 GiB for peak activation, 0.95 GiB for non-torch memory, and \
4.13 GiB for CUDAGraph memory. Current kv cache memory in use is 50.62 GiB."""
#: vLLM 0.31: weights and non-torch together, the graph estimate inside the peak.
CONSUMED = """(EngineCore pid=326) INFO 10-06 17:00:11 [model_runner.py:407] Model loading took 15.0 GiB memory
(EngineCore pid=326) INFO 10-06 17:00:41 [gpu_worker.py:955] Free memory on device (78.84/79.25 GiB) on startup. \
Desired GPU memory utilization is (0.92, 72.91 GiB). Actual usage is 15.26 GiB for consumed memory (weights + \
non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory.
(EngineCore pid=326) INFO 10-06 17:00:33 [gpu_worker.py:692] Available KV cache memory: 56.21 GiB"""
SGLANG = """server_args ... tp_size=4 ... mem_fraction_static=0.8 ...
[TP0] Load weight begin. avail mem=23.08 GB
[TP0] Load weight end. type=Qwen3ForCausalLM, dtype=torch.bfloat16, avail mem=16.00 GB, mem usage=7.08 GB."""
LLAMA = """load_tensors:        CUDA0 model buffer size =  5060.88 MiB
llama_context:      CUDA0 compute buffer size =   808.02 MiB"""


def test_first_wording() -> None:
    """The V0 engine prints weights, non-torch memory and activation peak on one line, the request on another."""
    log = read_log(V0)
    assert (log.engine, log.utilization) == ("vllm", 0.4)
    assert (log.total_bytes, log.requested_bytes) == (gib_of(23.65), gib_of(9.46))
    assert (log.weights_bytes, log.non_torch_bytes) == (gib_of(0.70), gib_of(0.07))
    assert (log.activation_bytes, log.pool_bytes) == (gib_of(1.12), gib_of(7.57))
    assert log.reserve_bytes == 0


def test_second_wording() -> None:
    """The graph reserve is what the other lines leave of the request: the estimate that the log prints elsewhere."""
    log = read_log(APART)
    assert log.graphs_bytes == gib_of(4.13)
    assert log.reserve_bytes is not None
    assert abs(log.reserve_bytes - gib_of(4.99)) <= GIB // 100


def test_third_wording() -> None:
    """The newer wording has weights and non-torch memory in one figure, and no reserve of its own."""
    log = read_log(CONSUMED)
    assert (log.weights_bytes, log.consumed_bytes) == (15 * GIB, gib_of(15.26))
    assert (log.non_torch_bytes, log.reserve_bytes) == (None, None)
    assert log.pool_bytes == gib_of(56.21)


def test_ranks() -> None:
    """Of several ranks the largest need and the smallest pool count."""
    text = "Available KV cache memory: 8.11 GiB\nModel loading took 3.0 GiB\nAvailable KV cache memory: 8.20 GiB\n"
    log = read_log(text + "Model loading took 3.1 GiB")
    assert (log.pool_bytes, log.weights_bytes) == (gib_of(8.11), gib_of(3.1))


def test_other_engines() -> None:
    """SGLang and llama.cpp are told apart by their own words."""
    sglang, llama = read_log(SGLANG), read_log(LLAMA)
    assert (sglang.engine, sglang.utilization, sglang.free_after_bytes) == ("sglang", 0.8, 16 * GIB)
    assert (llama.engine, llama.compute_bytes) == ("llama.cpp", round(808.02 * MIB))


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("non-default args: {'max_num_seqs': 32, 'enforce_eager': True}", {"max_num_seqs": 32, "enforce_eager": True}),
        ("vllm serve m --max-num-seqs 32 --max-num-batched-tokens 4096", {"max_num_seqs": 32}),
        ("Initializing a V1 LLM engine (v0.11.0) with config", {"version": "0.11.0"}),
        ("vLLM API server version 0.10.2", {"version": "0.10.2"}),
    ],
)
def test_flags(text: str, flags: dict[str, object]) -> None:
    """Flags and version are read in every spelling a log has."""
    log = read_log(text + "\nModel loading took 1.0 GiB")
    assert {name: getattr(log, name) for name in flags} == flags


def test_a_log_without_figures() -> None:
    """Text without memory figures is refused, not read as zeros."""
    with pytest.raises(UsageError, match="no memory figures"):
        read_log("INFO: Started server process [1]")


def test_log_replaces_the_lines(call: Call, tmp_path: Path) -> None:
    """With a log the pool is the printed one, and the lines say so; another flag scales what it changes."""
    path = tmp_path / "start.log"
    path.write_text(CONSUMED)
    arguments = ("fit", "llama-3.1-8b", "-e", "vllm@0.31", "--gpu", "a100-80gb", "--from-log", str(path), "--json")
    answer = call(*arguments).answer
    assert abs(answer["pool_bytes"] - gib_of(56.21)) <= 2
    assert {line["source"] for line in answer["ledger"]} == {"log", "formula"}
    assert answer["pool_low_bytes"] == answer["pool_bytes"] == answer["pool_high_bytes"]
    more = call(*arguments, "-o", "max_num_seqs=1024").answer
    assert more["pool_bytes"] < answer["pool_bytes"]
    less = call(*arguments, "-o", "gpu_memory_utilization=0.8").answer
    assert abs(answer["pool_bytes"] - less["pool_bytes"] - gib_of(0.12 * 79.25)) <= GIB // 50


@pytest.mark.parametrize("missing", ["Model loading took", "Available KV cache memory"])
def test_a_line_that_is_missing(call: Call, tmp_path: Path, missing: str) -> None:
    """Weights and non-torch memory printed as one figure are not taken off again beside the model's own weights."""
    path = tmp_path / "start.log"
    path.write_text("\n".join(line for line in CONSUMED.splitlines() if missing not in line))
    arguments = ("fit", "llama-3.1-8b", "-e", "vllm@0.31", "--gpu", "a100-80gb", "--from-log", str(path), "--json")
    answer = call(*arguments).answer
    assert abs(answer["pool_bytes"] - gib_of(56.21)) <= GIB // 50


def test_log_alone_gives_the_pool(call: Call, tmp_path: Path) -> None:
    """Without a GPU the log's own pool is taken."""
    path = tmp_path / "start.log"
    path.write_text(V0)
    done = call("fit", "qwen2.5-0.5b", "--from-log", str(path), "--json")
    assert json.loads(done.out)["pool_bytes"] == gib_of(7.57)


def test_unreadable_log(call: Call, tmp_path: Path) -> None:
    """A missing file is a usage error that names it."""
    done = call("fit", "llama3", "--gpu", "h100", "--from-log", str(tmp_path / "none.log"), "--json")
    assert (done.code, done.error["field"]) == (2, "from-log")


def test_empty_start() -> None:
    """What a log does not print stays unknown."""
    assert StartLog(engine="vllm").reserve_bytes is None
