"""The flags an engine was started with, as far as its log shows them; and the log as a whole."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from kvcalc.core.model import Model
from kvcalc.dtypes import get_dtype
from kvcalc.errors import UsageError, short
from kvcalc.explain_log.facts import Found

_VALUE = r"[\"']?(?P<v>[A-Za-z0-9_./:-]{1,200})"
#: flag -> spellings: command-line option, argument of a printed config. A flag is read where it stands first.
_FLAGS: dict[str, str] = {
    "model": r"(?:--model(?:-path)?[ =]|\bmodel(?:_path)?=|vllm serve (?!-))" + _VALUE,
    "tp": r"(?:--tensor[-_]parallel(?:[-_]size)?[ =]|--tp(?:-size)?[ =]|-tp[ =]|tensor_parallel_size=|\btp_size=)"
    + _VALUE,
    "pp": r"(?:--pipeline[-_]parallel(?:[-_]size)?[ =]|--pp(?:-size)?[ =]|-pp[ =]|pipeline_parallel_size=|\bpp_size=)"
    + _VALUE,
    "dp": r"(?:--data[-_]parallel[-_]size[ =]|--dp(?:-size)?[ =]|data_parallel_size=|\bdp_size=)" + _VALUE,
    "dcp": r"(?:--decode[-_]context[-_]parallel[-_]size[ =]|-dcp[ =]|decode_context_parallel_size=)" + _VALUE,
    "max_model_len": r"(?:--max[-_]model[-_]len[ =]|max_seq_len=|max_model_len=|--context-length[ =])" + _VALUE,
    "max_num_batched_tokens": r"(?:--max[-_]num[-_]batched[-_]tokens[ =]|max_num_batched_tokens=)" + _VALUE,
    "max_num_seqs": r"(?:--max[-_]num[-_]seqs[ =]|max_num_seqs=)" + _VALUE,
    "kv_cache_dtype": r"(?:--kv[-_]cache[-_]dtype[ =]|kv_cache_dtype=)" + _VALUE,
    "dtype": r"(?:--dtype[ =]|(?<![a-z_-])dtype=)(?:torch\.)?" + _VALUE,
    "gpu_memory_utilization": r"(?:--gpu[-_]memory[-_]utilization[ =]|gpu_memory_utilization=)" + _VALUE,
    "block_size": r"(?:--block[-_]size[ =])" + _VALUE,
    "enable_prefix_caching": r"(?:enable_prefix_caching=\s*)" + _VALUE,
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _FLAGS.items()}
_SWITCHES = {
    "--no-enable-prefix-caching": ("enable_prefix_caching", "false"),
    "--enable-prefix-caching": ("enable_prefix_caching", "true"),
    "--enable_prefix_caching": ("enable_prefix_caching", "true"),
    "--no-async-scheduling": ("async_scheduling", "false"),
    "--disable-hybrid-kv-cache-manager": ("disable_hybrid_kv_cache_manager", "true"),
}


class Flags(NamedTuple):
    """Flags by kvcalc's names; texts as written."""

    values: dict[str, str]

    def text(self, name: str) -> str | None:
        return self.values.get(name)

    def whole(self, name: str) -> int | None:
        """A flag as a whole number. Source: vLLM engine/arg_utils.py human_readable_int.

        >>> [Flags({"n": text}).whole("n") for text in ("8k", "8K", "25.6k")]
        [8000, 8192, 25600]
        """
        match = re.fullmatch(r"([0-9]{1,12})(?:([KM])|((?:\.[0-9]{1,6})?)([km]))?", self.values.get(name, ""))
        if match is None:
            return None
        whole, binary, part, decimal = match.groups()
        if decimal is not None:
            return int(Fraction(f"{whole}{part}") * {"k": 1000, "m": 10**6}[decimal])
        return int(whole) * {None: 1, "K": 1024, "M": 2**20}[binary]


class Log(NamedTuple):
    """What was read. gpu: architecture like `sm90`, where the user names it."""

    engine: str
    found: Found
    flags: Flags
    gpu: str | None = None


def read_flags(lines: list[str]) -> Flags:
    """The first value of each flag anywhere in the log."""
    found: dict[str, str] = {}
    for line in lines:
        if "=" not in line and "--" not in line and "serve" not in line and "-tp" not in line:
            continue
        for name, pattern in _PATTERNS.items():
            if name not in found and (match := pattern.search(line)) is not None:
                found[name] = match.group("v").rstrip(",.'\"")
        for word, (name, value) in _SWITCHES.items():
            if word in line:
                found.setdefault(name, value)
    return Flags(found)


def logged_dtype(flags: Flags, model: Model, notes: list[str]) -> str:
    """The type of keys and values: as logged, else the model's own (engines write `auto` for it)."""
    name, base = flags.text("kv_cache_dtype"), model.cache_dtype or model.dtype
    if name is None or name == "auto":
        return base
    try:
        return get_dtype(name, field="kv-dtype").name
    except UsageError:
        notes.append(f"cache type {short(name)} of the log is not known: {base} instead")
        return base
