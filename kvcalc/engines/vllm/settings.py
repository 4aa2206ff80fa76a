"""How vLLM is started: its options, and what they resolve to for one model.

Source: vLLM 0.33.0 engine/arg_utils.py, config/vllm.py, config/cache.py, config/model.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.vllm import archs
from kvcalc.engines.vllm.cachedtypes import CACHE_DTYPES, TURBOQUANT, vllm_name
from kvcalc.engines.vllm.defaults import default_batch, is_a100, read_version
from kvcalc.engines.vllm.spec import Limits
from kvcalc.engines.vllm.versions import RULES, Rules
from kvcalc.errors import EngineRefusal, UsageError

_STATE_TYPES = ("auto", "float32", "float16", "bfloat16")

OPTIONS: tuple[Option, ...] = (
    Option(name="max_model_len", parse="tokens", help="--max-model-len; the asked context when absent"),
    Option(name="block_size", parse="count", help="--block-size; the backend's choice when absent"),
    Option(
        name="max_num_batched_tokens",
        parse="tokens",
        help="--max-num-batched-tokens; windows, chunks and cross attention reserve by it",
    ),
    Option(name="max_num_seqs", parse="count", help="--max-num-seqs, the scheduler's own limit of sessions"),
    Option(name="enable_prefix_caching", parse="switch", help="--enable-prefix-caching; on, but not without attention"),
    Option(name="async_scheduling", parse="switch", help="--async-scheduling; on", default=True),
    Option(
        name="disable_hybrid_kv_cache_manager",
        parse="switch",
        help="--disable-hybrid-kv-cache-manager: windows are stored in full",
        default=False,
    ),
    Option(name="kv_cache_dtype", parse="choice", help="--kv-cache-dtype, vLLM's own names", choices=CACHE_DTYPES),
    Option(
        name="kv_cache_dtype_skip_layers",
        parse="text",
        help="layers kept in the model's type: numbers and sliding_window, separated by commas",
    ),
    Option(name="mamba_cache_dtype", parse="choice", help="--mamba-cache-dtype", choices=_STATE_TYPES),
    Option(name="mamba_ssm_cache_dtype", parse="choice", help="--mamba-ssm-cache-dtype", choices=_STATE_TYPES),
    Option(name="num_speculative_tokens", parse="count", help="tokens drafted per step", default=0),
    Option(
        name="speculative_method",
        parse="choice",
        help="mtp adds the model's own draft layers; ngram adds none",
        choices=("mtp", "ngram"),
        default="mtp",
    ),
    Option(name="flashinfer", parse="switch", help="FlashInfer's kernels are there, as the wheel asks", default=True),
    Option(name="gpu_memory_utilization", parse="fraction", help="--gpu-memory-utilization, of the GPU's total"),
    Option(name="enforce_eager", parse="switch", help="--enforce-eager: no CUDA graphs", default=False),
    Option(
        name="enable_expert_parallel",
        parse="switch",
        help="--enable-expert-parallel: experts are divided over TP x DP",
        default=False,
    ),
    Option(
        name="language_model_only",
        parse="switch",
        help="--language-model-only: no encoder is loaded or profiled",
        default=False,
    ),
    Option(
        name="use_flashinfer_sampler",
        parse="switch",
        help="VLLM_USE_FLASHINFER_SAMPLER: before 0.17 it decides what sampling takes",
    ),
    Option(name="num_gpu_blocks_override", parse="count", help="--num-gpu-blocks-override: blocks instead of a pool"),
)

#: `vllm serve` without --max-num-batched-tokens where only the architecture of the GPU is known.
_BATCH_TOKENS = {90: 8192, 100: 16384, 103: 16384}
_SMALL_BATCH = 2048
_DEFAULT_CAPABILITY = 90
_NATIVE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about the start that decides the cache.

    capability: 80, 90, 100 ...; kv_dtype, conv_dtype: vLLM's names, resolved. asked_ssm_dtype: type of recurrent
    states the user asked for, None leaves it to the model's rule.
    """

    rules: Rules
    layout: Layout
    capability: int
    model_dtype: str
    kv_dtype: str
    conv_dtype: str
    asked_ssm_dtype: str | None
    block_tokens: int | None
    batch_tokens: int
    prefix_caching: bool
    async_scheduling: bool
    hybrid_manager: bool
    draft_tokens: int
    draft_layers: bool
    skip_layers: frozenset[str]
    has_states: bool
    flashinfer: bool
    assumptions: tuple[str, ...]

    @property
    def native_bytes(self) -> int:
        return _NATIVE_BYTES[self.model_dtype]

    @property
    def align_states(self) -> bool:
        """Prefix caching keeps state checkpoints at block boundaries (mamba_cache_mode "align")."""
        return self.prefix_caching and self.has_states

    @property
    def in_flight_tokens(self) -> int:
        """Tokens scheduled and not settled yet.

        Source: config/vllm.py `max_in_flight_tokens`, `max_concurrent_batches`.
        """
        if not self.rules.in_flight_batches:
            return self.batch_tokens
        return self.batch_tokens * (self.layout.pp + (1 if self.async_scheduling else 0))

    @property
    def limits(self) -> Limits:
        # The encoder budget equals the batch budget (config/scheduler.py), not the encoder's own length.
        return Limits(self.in_flight_tokens, self.batch_tokens, self.layout.dcp, self.align_states)


def read_settings(model: Model, setup: Setup, *, has_states: bool, has_attention: bool, crosses: bool) -> Settings:
    """Options and setup, resolved for the model.

    Raises: EngineRefusal, UsageError.
    """
    options = {option.name: option.default for option in OPTIONS if option.default is not None} | dict(setup.options)
    notes: list[str] = []
    capability = _capability(setup.gpu, notes)
    model_dtype = _model_dtype(model, notes)
    rules = RULES[setup.version]
    if setup.version != next(iter(RULES)):
        notes.append(f"vLLM {setup.version}: its own rules for blocks and checks; attention backends as in 0.33")
    caching = options.get("enable_prefix_caching")
    if caching is None:
        # Source: config/model.py `is_prefix_caching_supported`: neither attention-free nor encoder-decoder models.
        caching = has_attention and not crosses and (rules.hybrid_caching or not has_states)
    batch = options.get("max_num_batched_tokens")
    if batch is None:
        batch = _batch_tokens(setup, capability)
        notes.append(f"max_num_batched_tokens {batch:,}: what vllm serve sets on this GPU")
    drafts = int(options["num_speculative_tokens"])
    if not (block := options.get("block_size")):
        block = None
    kv_dtype = _kv_dtype(model, setup, options.get("kv_cache_dtype"), capability)
    return Settings(
        rules=rules,
        layout=setup.layout,
        capability=capability,
        model_dtype=model_dtype,
        kv_dtype=kv_dtype,
        conv_dtype=_conv_dtype(options.get("mamba_cache_dtype"), model_dtype),
        asked_ssm_dtype=_asked_ssm_dtype(setup, options),
        block_tokens=block,
        batch_tokens=batch,
        prefix_caching=bool(caching),
        async_scheduling=bool(options["async_scheduling"]),
        hybrid_manager=not options["disable_hybrid_kv_cache_manager"],
        draft_tokens=drafts,
        draft_layers=drafts > 0 and options["speculative_method"] == "mtp",
        skip_layers=_skip_layers(model, options, kv_dtype, hybrid=has_states and has_attention),
        has_states=has_states,
        flashinfer=bool(options["flashinfer"]),
        assumptions=tuple(notes),
    )


def _batch_tokens(setup: Setup, capability: int) -> int:
    """By the GPU's memory; where only the architecture is known, by its usual card."""
    if setup.gpu_bytes is None:
        return _BATCH_TOKENS.get(capability, _SMALL_BATCH)
    return default_batch(read_version(setup.version), setup.gpu_bytes, a100=is_a100(setup.gpu))


def _capability(gpu: str | None, notes: list[str]) -> int:
    """Compute capability (x 10) of a GPU architecture like `sm90`.

    Raises: EngineRefusal for what is no NVIDIA architecture vLLM runs on.
    """
    if gpu is None:
        notes.append("GPU of compute capability 9.0 (Hopper): it decides block sizes")
        return _DEFAULT_CAPABILITY
    match = re.fullmatch(r"sm_?([0-9]{2,3})[a-z]?", gpu.strip().lower(), re.ASCII)
    if match is None or not 80 <= int(match.group(1)) < 130:
        raise EngineRefusal(
            f"the vllm engine knows NVIDIA GPUs of compute capability 8.0 to 12.x, not {gpu!r}",
            fix="architectures: sm80, sm86, sm89, sm90, sm100, sm120",
            field="gpu",
            value=gpu,
        )
    return int(match.group(1))


def _model_dtype(model: Model, notes: list[str]) -> str:
    """`--dtype auto`: float32 checkpoints run in 16 bits.

    Source: config/model.py `_resolve_auto_dtype`.
    """
    if model.dtype in ("bfloat16", "float16"):
        return model.dtype
    notes.append(f"--dtype auto runs this {model.dtype} checkpoint in bfloat16")
    return "bfloat16"


def _kv_dtype(model: Model, setup: Setup, asked: str | None, capability: int) -> str:
    """The name given by -o kv_cache_dtype, else the element type asked for, with the model's own rule."""
    if asked is None:
        asked = vllm_name(setup.dtypes.key, setup.dtypes.value, model.dtype)
    return archs.kv_dtype(model, asked, capability)


def _skip_layers(model: Model, options: dict[str, object], kv_dtype: str, *, hybrid: bool) -> frozenset[str]:
    """Layers kept unquantised: asked for, and the first and last two of a dense model under turboquant.

    Source: quantization/turboquant/config.py `get_boundary_skip_layers`.
    """
    text = str(options.get("kv_cache_dtype_skip_layers") or "")
    named = {part.strip() for part in text.split(",") if part.strip()}
    count = len(model.layers)
    if bad := [name for name in named if name != "sliding_window" and not (name.isdigit() and int(name) < count)]:
        raise UsageError(
            f"kv_cache_dtype_skip_layers has {bad[0]!r}",
            fix=f"layer numbers below {count}, or sliding_window",
            field="kv_cache_dtype_skip_layers",
        )
    if kv_dtype in TURBOQUANT and not hybrid:
        edge = min(2, count // 2)
        named |= {str(index) for index in (*range(edge), *range(count - edge, count))}
    return frozenset(named)


def _conv_dtype(asked: object, model_dtype: str) -> str:
    return model_dtype if asked in (None, "auto") else str(asked)


def _asked_ssm_dtype(setup: Setup, options: dict[str, object]) -> str | None:
    """--mamba-ssm-cache-dtype, or the state type asked for in kvcalc's terms."""
    asked = options.get("mamba_ssm_cache_dtype")
    if asked in (None, "auto") and "state" in setup.asked:
        asked = setup.dtypes.state
    if asked in (None, "auto"):
        return None
    if asked not in _NATIVE_BYTES:
        raise EngineRefusal(
            f"vLLM keeps no recurrent states in {asked}", fix="float32, bfloat16 or float16", field="state-dtype"
        )
    return str(asked)
