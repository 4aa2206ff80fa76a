"""The memory an engine printed when it started: vLLM (three wordings), SGLang and llama.cpp logs.

Only numbers are read, never guessed: what a log does not print stays None. Several ranks print one line each; the
fullest rank decides, so the largest need and the smallest pool are kept.

Sources: vLLM 0.6 worker.py:291 ("model weights take"), 0.10 to 0.25 gpu_worker.py ("for weight"), since 0.26
("consumed memory (weights + non-torch)"); SGLang model_runner.py ("Load weight end"); llama.cpp llama_context.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kvcalc.errors import UsageError
from kvcalc.planning.amount import gib_of
from kvcalc.units import MIB

#: Not begun inside a run of digits, and bounded: nothing pasted can stall the search or overflow a float.
_PLAIN = r"(?<![0-9])-?[0-9]{1,9}(?:\.[0-9]{1,12})?"
_NUMBER = f"({_PLAIN})"
#: field -> pattern of a figure in GiB (SGLang writes GB and means GiB); `largest` of all ranks, or the smallest.
_GIB: tuple[tuple[str, str, bool], ...] = (
    ("total_bytes", rf"total_gpu_memory \({_NUMBER} ?GiB\)", False),
    ("total_bytes", rf"Free memory on device \({_PLAIN}/{_NUMBER} GiB\)", False),
    ("requested_bytes", rf"gpu_memory_utilization \([0-9.]+\) = {_NUMBER} ?GiB", False),
    ("requested_bytes", rf"Desired GPU memory utilization is \([0-9.]+, {_NUMBER} GiB\)", False),
    ("weights_bytes", rf"model weights take {_NUMBER} ?GiB", True),
    ("weights_bytes", rf"{_NUMBER} GiB for weight\b", True),
    ("weights_bytes", rf"Model loading took {_NUMBER} ?GiB", True),
    ("weights_bytes", rf"Load weight end\..{{0,200}}mem usage={_NUMBER} GB", True),
    ("consumed_bytes", rf"{_NUMBER} GiB for consumed memory", True),
    ("activation_bytes", rf"activation peak memory takes {_NUMBER} ?GiB", True),
    ("activation_bytes", rf"{_NUMBER} GiB for peak activation", True),
    ("non_torch_bytes", rf"non_torch_memory takes {_NUMBER} ?GiB", True),
    ("non_torch_bytes", rf"{_NUMBER} GiB for non-torch memory", True),
    ("graphs_bytes", rf"{_NUMBER} GiB for CUDAGraph memory", True),
    ("graphs_bytes", rf"Graph capturing finished in .{{0,40}} took {_NUMBER} GiB", True),
    ("graphs_bytes", rf"Capture cuda graph end\..{{0,200}}mem usage={_NUMBER} GB", True),
    ("graph_estimate_bytes", rf"{_NUMBER} GiB \(estimated\)", True),
    ("pool_bytes", rf"reserved for KV Cache is {_NUMBER} ?GiB", False),
    ("pool_bytes", rf"Available KV cache memory: {_NUMBER} GiB", False),
    ("pool_bytes", rf"Current kv cache memory in use is {_NUMBER} GiB", False),
    ("free_before_bytes", rf"Load weight begin\. avail mem={_NUMBER} GB", False),
    ("free_after_bytes", rf"Load weight end\..{{0,200}}avail mem={_NUMBER} GB", False),
)
#: Exact bytes, where a log prints them.
_BYTES = (("pool_bytes", re.compile(r"Current kv cache memory in use is ([0-9]{6,18}) bytes")),)
_LLAMA = {
    "weights_bytes": re.compile(
        rf"(?:CUDA|ROCm|Vulkan|SYCL|Metal|MTL)[A-Za-z0-9_]{{0,40}} model buffer size = +{_NUMBER} MiB"
    ),
    "compute_bytes": re.compile(
        rf"(?:CUDA|ROCm|Vulkan|SYCL|Metal|MTL)[A-Za-z0-9_]{{0,40}} compute buffer size = +{_NUMBER} MiB"
    ),
}
_COUNTS = ("max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size", "max_model_len")
_VERSION = re.compile(r"(?:API server version|LLM engine \(v|vLLM version[: ]+v?) ?([0-9]+\.[0-9]+(?:\.[0-9]+)?)")
_FRACTION = re.compile(r"(?:gpu[-_]memory[-_]utilization['\"]?[=: (]+|GPU memory utilization is \()([01]?\.[0-9]+)")
_SG_FRACTION = re.compile(r"mem[-_]fraction[-_]static['\"]?[=: ]+([01]?\.[0-9]+)")
_PATTERNS = [(field, re.compile(pattern), largest) for field, pattern, largest in _GIB]
#: A log of a start is a few hundred KiB; more is a log of weeks.
MAX_LOG_BYTES = 64 * MIB


class StartLog(NamedTuple):
    """What one start printed. graph_estimate_bytes: set aside before the cache; graphs_bytes: really taken."""

    engine: str
    version: str | None = None
    total_bytes: int | None = None
    requested_bytes: int | None = None
    weights_bytes: int | None = None
    consumed_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    graphs_bytes: int | None = None
    graph_estimate_bytes: int | None = None
    pool_bytes: int | None = None
    free_before_bytes: int | None = None
    free_after_bytes: int | None = None
    compute_bytes: int | None = None
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    tensor_parallel_size: int | None = None
    max_model_len: int | None = None
    enforce_eager: bool | None = None

    @property
    def reserve_bytes(self) -> int | None:
        """What vLLM kept for CUDA graphs: the rest of the request once all other lines are known.

        Only where the log prints weights and non-torch memory apart: the newer wording has the reserve in the peak.
        """
        parts = (self.requested_bytes, self.weights_bytes, self.activation_bytes, self.non_torch_bytes, self.pool_bytes)
        if self.consumed_bytes is not None or any(part is None for part in parts):
            return self.graph_estimate_bytes
        requested, *taken = (part or 0 for part in parts)
        return max(requested - sum(taken), 0)


def read_log(text: str) -> StartLog:
    """The figures of a start-up log.

    Raises: UsageError where the text holds none.

    >>> read_log("Actual usage is 8.58 GiB for weight, 9.96 GiB for peak activation").activation_bytes
    10694468567
    """
    found: dict[str, int] = {}
    for field, pattern, largest in _PATTERNS:
        values = [gib_of(value) for value in pattern.findall(text)]
        if values:
            value = max(values) if largest else min(values)
            found.setdefault(field, value)
    for field, pattern in _BYTES:
        if values := [int(value) for value in pattern.findall(text)]:
            found[field] = min(values)
    engine = "sglang" if re.search(r"Load weight (begin|end)\.|mem_fraction_static", text) else "vllm"
    if llama := _llama(text):
        engine, found = "llama.cpp", llama
    if not found:
        raise UsageError(
            "no memory figures in the log",
            fix="give the engine's output from its start: vLLM's 'Actual usage is ...', SGLang's 'Load weight end'",
            field="from-log",
        )
    return StartLog(engine=engine, **found, **_flags(text))  # type: ignore[arg-type]


def read_log_file(path: str) -> StartLog:
    """The figures of the log at `path`.

    Raises: UsageError when it cannot be read or holds none.
    """
    from pathlib import Path

    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_LOG_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", fix="check --from-log", field="from-log") from None
    if len(raw) > MAX_LOG_BYTES:
        raise UsageError(f"{path} is above 64 MiB", fix="give the lines of one start", field="from-log", value=path)
    return read_log(raw.decode("utf-8", "replace"))


def _llama(text: str) -> dict[str, int]:
    """llama.cpp prints one line per device: the fullest decides."""
    found = {}
    for field, pattern in _LLAMA.items():
        if values := [round(float(value) * MIB) for value in pattern.findall(text)]:
            found[field] = max(values)
    return found


def _flags(text: str) -> dict[str, object]:
    """The flags a log echoes: `--max-num-seqs 32`, `max_num_seqs=32` or `'max_num_seqs': 32`."""
    flags: dict[str, object] = {}
    for name in _COUNTS:
        spelled = name.replace("_", "[-_]")
        if match := re.search(rf"{spelled}['\"]?[=: ]{{1,9}}([0-9]{{1,15}})\b", text):
            flags[name] = int(match.group(1))
    if match := _VERSION.search(text):
        flags["version"] = match.group(1)
    if match := _FRACTION.search(text) or _SG_FRACTION.search(text):
        flags["utilization"] = float(match.group(1))
    if match := re.search(r"enforce[-_]eager['\"]?(?:[=: ]+(True|False))?", text):
        flags["enforce_eager"] = match.group(1) != "False"
    return flags
