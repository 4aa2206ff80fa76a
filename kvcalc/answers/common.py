"""What every question shares: the asked load and layout, the resolved dtypes, the prepared planner."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.exactness import SCHEMA_VERSION
from kvcalc.core.light import NamedTuple
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.document import plain
from kvcalc.dtypes import get_dtype
from kvcalc.engines import CACHE_TYPE, get_engine
from kvcalc.engines.base import CacheDtypes, Engine, Setup, read_options
from kvcalc.errors import UsageError, short
from kvcalc.targets import Target
from kvcalc.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.component import Role
    from kvcalc.core.gpu import Gpu
    from kvcalc.core.result import EngineInfo, ModelInfo
    from kvcalc.planning.lora import Lora
    from kvcalc.planning.startlog import StartLog


class Ask(NamedTuple):
    """One question's common options, parsed but not yet applied to a model. None: not asked for."""

    context_tokens: int = 8192
    sessions: int = 1
    kv_dtype: str | None = None
    state_dtype: str | None = None
    index_dtype: str | None = None
    engine: str = "ideal"
    engine_options: tuple[str, ...] = ()
    tp: int | None = None
    pp: int = 1
    dp: int = 1
    dcp: int = 1
    ep: bool = False
    gpu: str | None = None
    gpu_count: int | None = None
    weight_dtype: str | None = None
    lora: Lora | None = None
    pool_bytes: int | None = None
    overhead_bytes: int | None = None
    gpu_total_bytes: int | None = None
    from_log: str | None = None
    log: StartLog | None = None
    encoder_tokens: int | None = None


class Prepared(NamedTuple):
    """A planner, the planner of one undivided copy, and what has to be said beside the numbers."""

    target: Target
    engine: Engine
    setup: Setup
    load: Load
    planner: Planner
    single: Planner
    assumptions: list[str]
    warnings: list[str]
    inputs: dict[str, Any]


def read_kv_dtype(text: str) -> tuple[str | None, str | None]:
    """`bf16` for both, or `k=q8_0,v=q4_0` (either alone): canonical names for K and V.

    Raises: UsageError.
    """
    if "=" not in text:
        name = get_dtype(text, field="kv-dtype").name
        return name, name
    found: dict[str, str] = {}
    for part in text.split(","):
        key, _, name = part.partition("=")
        if key.strip() not in ("k", "v") or key.strip() in found:
            raise UsageError(
                f"--kv-dtype has {short(part)}, which is neither k=TYPE nor v=TYPE",
                fix="write --kv-dtype fp8 or --kv-dtype k=q8_0,v=q4_0",
                field="kv-dtype",
                value=text,
            )
        found[key.strip()] = get_dtype(name, field="kv-dtype").name
    return found.get("k"), found.get("v")


def cache_dtypes(model: Model, ask: Ask) -> CacheDtypes:
    """The type of every role: asked for, else the engine's, the file's or the model's own; recurrent states float32.

    float32 states: transformers 5.23, vLLM and SGLang keep SSM and linear-attention states in float32 unless told
    otherwise (reference models state no other type); convolution tails stay in the model's type.
    """
    base = CACHE_TYPE.get(get_engine(ask.engine)[0].name) or model.cache_dtype or model.dtype
    key, value = read_kv_dtype(ask.kv_dtype) if ask.kv_dtype is not None else (None, None)
    state = get_dtype(ask.state_dtype, field="state-dtype").name if ask.state_dtype is not None else model.state_dtype
    index = get_dtype(ask.index_dtype, field="index-dtype").name if ask.index_dtype is not None else model.index_dtype
    return CacheDtypes(
        key=key or base,
        value=value or base,
        index=index or model.dtype,
        pending=model.dtype,
        conv=model.dtype,
        state=state or "float32",
    )


def encoder_tokens(model: Model, ask: Ask, assumptions: list[str]) -> int:
    """Encoder tokens asked for, or the encoder's fixed length where the config states one.

    Raises: UsageError when a model with cross attention gets neither.
    """
    crossing = any(component.name.startswith("cross_") for kind in model.blocks.values() for component in kind.lower())
    if not crossing:
        return 0
    if ask.encoder_tokens is not None:
        return ask.encoder_tokens
    fixed = model.facts.get("max_source_positions")
    if type(fixed) is int and fixed > 0:
        assumptions.append(f"encoder of {fixed:,} tokens (max_source_positions of the config)")
        return fixed
    raise UsageError(
        f"{model.name} has cross attention: its cache depends on the encoder's length",
        fix="add --encoder-tokens N",
        field="encoder-tokens",
    )


def asked_roles(ask: Ask) -> frozenset[Role]:
    """Roles whose type the user asked for: an engine's own rules leave these alone."""
    roles: dict[Role, object] = {"state": ask.state_dtype, "index": ask.index_dtype}
    roles["key"], roles["value"] = read_kv_dtype(ask.kv_dtype) if ask.kv_dtype else (None, None)
    return frozenset(role for role, asked in roles.items() if asked is not None)


def prepare(target: Target, ask: Ask, *, gpu: Gpu | None, tp: int | None = None) -> Prepared:
    """Everything up to the first plan.

    gpu: its architecture and memory decide some engines' defaults; never left out, so that no question answers for
    another card than the one asked for. tp: overrides the asked degree (automatic layouts).

    Raises: UsageError, EngineRefusal.
    """
    model = target.model
    engine, version = get_engine(ask.engine)
    dtypes = cache_dtypes(model, ask)
    layout = Layout(tp=tp or ask.tp or 1, pp=ask.pp, dp=ask.dp, dcp=ask.dcp)
    assumptions = list(target.assumptions)
    load = Load(ask.context_tokens, ask.sessions, encoder_tokens(model, ask, assumptions))
    options = read_options(engine, ask.engine_options)
    card = None if gpu is None else gpu.architecture
    seen = None if gpu is None else ask.gpu_total_bytes or gpu.runtime_bytes or gpu.total_bytes
    asked = asked_roles(ask)
    setup = Setup(version=version, layout=layout, dtypes=dtypes, options=options, gpu=card, gpu_bytes=seen, asked=asked)
    alone = setup._replace(layout=Layout())
    planner = engine.prepare(model, setup)
    single = planner if layout == Layout() else engine.prepare(model, alone)
    extra = []
    if model.max_context is not None and ask.context_tokens > model.max_context:
        extra.append(f"context {ask.context_tokens:,} is beyond the model's own {model.max_context:,}")
    return Prepared(
        target=target,
        engine=engine,
        setup=setup,
        load=load,
        planner=planner,
        single=single,
        assumptions=[*assumptions, *planner.assumptions],
        warnings=[*target.warnings, *planner.warnings, *extra],
        inputs=echo(ask, setup, load),
    )


def echo(ask: Ask, setup: Setup, load: Load) -> dict[str, Any]:
    """The inputs as they were resolved."""
    dtypes, layout = setup.dtypes, setup.layout
    return {
        "context_tokens": load.context_tokens,
        "sessions": load.sessions,
        "encoder_tokens": load.encoder_tokens,
        "kv_dtype": {"key": dtypes.key, "value": dtypes.value},
        "state_dtype": dtypes.state,
        "index_dtype": dtypes.index,
        "tp": layout.tp,
        "pp": layout.pp,
        "dp": layout.dp,
        "dcp": layout.dcp,
        "ep": ask.ep,
        "engine_options": dict(setup.options),
        "gpu": ask.gpu,
        "weight_dtype": ask.weight_dtype,
        "lora": None if ask.lora is None else dict(zip(("slots", "rank"), ask.lora, strict=True)),
        "pool_bytes": ask.pool_bytes,
        "overhead_bytes": ask.overhead_bytes,
        "gpu_total_bytes": ask.gpu_total_bytes,
        "from_log": ask.from_log,
    }


def model_info(target: Target) -> ModelInfo:
    """The model as JSON shows it."""
    model = target.model
    return {
        "name": model.name,
        "architecture": model.architecture,
        "layers": len(model.layers),
        "kinds": model.kinds_summary(),
        "dtype": model.dtype,
        "parameters": model.parameters,
        "model_max_context": model.max_context,
        "source": plain(model.source),
        "origin": target.origin,
    }


def engine_info(engine: Engine, version: str) -> EngineInfo:
    return {"name": engine.name, "version": version, "verified_by": engine.verified_by}


def header(command: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields every JSON answer begins with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kvcalc_version": __version__,
        "command": command,
        "inputs": dict(inputs),
    }
