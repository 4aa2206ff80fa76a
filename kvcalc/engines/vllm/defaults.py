"""What `vllm serve` sets where a flag is absent: it depends on the GPU's memory and on the release.

Source: engine/arg_utils.py `get_batch_defaults` and `EngineArgs` of 0.9 to 0.33; logged starts.
"""

from __future__ import annotations

from kvcalc.units import GIB

Version = tuple[int, int]

_LARGE, _HUGE = 70 * GIB, 160 * GIB
_V1 = (0, 8)


def read_version(text: str) -> Version:
    """Release line of `0.11.2`, `0.33` ...

    >>> read_version("0.11.2")
    (0, 11)
    """
    major, _, minor = text.partition(".")
    return int(major or 0), int(minor.partition(".")[0] or 0)


def default_sequences(version: Version, total_bytes: int, *, a100: bool) -> int:
    """max_num_seqs."""
    return 1024 if version >= _V1 and total_bytes >= _LARGE and not a100 else 256


def default_batch(version: Version, total_bytes: int, *, a100: bool, server: bool = True) -> int:
    """max_num_batched_tokens; server: `vllm serve`, otherwise `LLM()`.

    16,384 from 160 GiB on since 0.22: the first release is assumed, logs of 0.18 still fit 8,192.
    """
    if total_bytes >= _HUGE and version >= (0, 22):
        return 16384
    if total_bytes >= _LARGE and not a100:
        return 8192 if server else 16384
    return 2048 if server else 8192


def is_a100(architecture: str | None) -> bool:
    """vLLM tells the A100 by its name; of compute capability 8.0 only it has 70 GiB or more."""
    return architecture == "sm80"
