"""From a model and settings to a planner: the architecture, the cache types, where layers live."""

from __future__ import annotations

from kvcalc.core.model import Model
from kvcalc.dtypes import DTYPES, Dtype
from kvcalc.engines.base import Setup
from kvcalc.engines.llamacpp.arch import NOT_COVERED, Arch, arch_of, gguf_architecture
from kvcalc.engines.llamacpp.planner import LlamaCppPlanner
from kvcalc.engines.llamacpp.rows import Caches, Row, caches_of
from kvcalc.engines.llamacpp.settings import Settings
from kvcalc.errors import EngineRefusal, UsageError, short

#: What `-ctk` and `-ctv` accept (common/arg.cpp kv_cache_types).
CACHE_TYPES = ("float32", "float16", "bfloat16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


def prepare(
    model: Model, setup: Setup, settings: Settings, *, assumptions: tuple[str, ...] = (), exactness: str = "exact"
) -> LlamaCppPlanner:
    """The planner for a model on one server.

    Raises: EngineRefusal with llama.cpp's reason; UsageError for a layout that it has not.
    """
    _check_layout(setup)
    name = architecture_of(model)
    arch = _rules(name, model, settings.version)
    # f16 unless asked: llama.cpp knows nothing of the type the model was trained in.
    key = _cache_type(setup.dtypes.key if "key" in setup.asked else "float16", "key")
    value = _cache_type(setup.dtypes.value if "value" in setup.asked else "float16", "value")
    flash = arch.flash and settings.flash_attn != "off"
    from_file = "gguf_architecture" in model.facts
    caches = caches_of(model, arch, name, flash=flash, from_file=from_file)
    _check_types(caches, key, value, flash=flash)
    layers = len(model.layers) + (model.mtp.layers if from_file and model.mtp is not None else 0)
    return LlamaCppPlanner(
        placed=_place(caches.rows, layers, setup.layout.pp, settings),
        window=caches.window,
        uneven=arch.split == "even" and _attends_before_last(caches, len(model.layers)),
        arch=arch,
        key=key,
        value=value,
        settings=settings,
        max_context=model.max_context,
        dp=setup.layout.dp,
        causal=model.facts.get("is_causal", True) is not False,
        layers=len(model.layers),
        weight_bytes=model.weights.bytes if model.weights is not None else None,
        assumptions=(*assumptions, *_assumptions(setup, settings, caches.rows, (key, value))),
        exactness=exactness,
    )


def architecture_of(model: Model) -> str:
    """The GGUF architecture of a model: stated by the file, or what its converter makes of the model_type.

    Raises: EngineRefusal where there is none.
    """
    stated = model.facts.get("gguf_architecture")
    if stated is not None:
        return str(stated)
    if model.architecture is None:
        raise EngineRefusal(
            f"llama.cpp's cache depends on the architecture, and {model.name} does not name one",
            fix="add `architecture:` (the config's model_type) to the model file, or use the GGUF",
            field="architecture",
        )
    # Kimi K3's language model calls itself kimi_linear; its converter is that of the whole.
    whole = model.facts.get("wrapper") == "kimi_k3"
    name = "kimi-k3" if whole else gguf_architecture(model.architecture)
    if name is None:
        raise EngineRefusal(
            f"llama.cpp has no architecture for model_type {short(model.architecture)}",
            fix="use another engine",
            field="architecture",
            value=model.architecture,
        )
    return name


def _rules(name: str, model: Model, version: str) -> Arch:
    arch = arch_of(name, len(model.layers), version)
    if arch is None:
        reason = NOT_COVERED.get(name, f"llama.cpp {version} does not know it")
        raise EngineRefusal(
            f"the memory of GGUF architecture {short(name)} is not described: {reason}",
            fix="use another engine or version",
            field="architecture",
            value=name,
        )
    return arch


def _check_layout(setup: Setup) -> None:
    if setup.layout.tp > 1 or setup.layout.dcp > 1:
        raise UsageError(
            "llama.cpp splits a model by layers: kvcalc has no rule for a split inside layers",
            fix="use --pp N for N GPUs",
            field="tp" if setup.layout.tp > 1 else "dcp",
        )


def _cache_type(name: str, role: str) -> Dtype:
    if name not in CACHE_TYPES:
        raise EngineRefusal(
            f"llama.cpp has no cache type {short(name)}",
            fix=f"one of: {', '.join(CACHE_TYPES)}",
            field=role,
            value=name,
        )
    return DTYPES[name]


def _check_types(caches: Caches, key: Dtype, value: Dtype, *, flash: bool) -> None:
    """The refusals of llama_init_from_model, in its order and words; then what its graph asserts."""
    if caches.latent and key is not value:
        raise EngineRefusal(
            f"model does not support different K ({key.name}) and V ({value.name}) cache types",
            fix=f"--kv-dtype {key.name}",
            field="value",
        )
    if value.block_elements > 1 and not flash:
        raise EngineRefusal(
            "quantized V cache requires flash_attn to be enabled", fix="-o flash_attn=on", field="flash_attn"
        )
    for letter, dtype, dims in (("K", key, caches.key_dims), ("V", value, caches.value_dims)):
        for width in dims if flash else ():
            if width % dtype.block_elements:
                raise EngineRefusal(
                    f"{letter} cache type {dtype.name} with block size {dtype.block_elements} does not divide "
                    f"n_embd_head_{letter.lower()}={width}",
                    fix="use f16",
                    field="key" if letter == "K" else "value",
                )
    for row in caches.rows:
        dtype = key if row.role == "key" else value
        if row.role != "state" and row.width % dtype.block_elements:
            raise EngineRefusal(
                f"llama.cpp aborts: {dtype.name} rows are whole blocks of {dtype.block_elements}, and {row.name} of "
                f"block {row.block!r} has {row.width} elements",
                fix="use f16",
                field=row.role,
            )


def _attends_before_last(caches: Caches, layers: int) -> bool:
    """Whether a layer before the last one attends: only there does an uneven batch stop the graph."""
    return any(row.role == "key" and row.layers[0] < layers - 1 for row in caches.rows)


def _place(rows: tuple[Row, ...], layers: int, gpus: int, settings: Settings) -> tuple[tuple[Row, ...], ...]:
    """Rows of each GPU, then those of the host.

    The last n_gpu_layers layers (the output layer is one of them) are spread over the GPUs in even parts, which is
    what the split by free memory gives on equal, empty GPUs (llama-model.cpp load_tensors). Their caches follow them.
    """
    asked = settings.n_gpu_layers
    active = layers + 1 if asked is None else min(asked, layers + 1)
    if not settings.offload_kqv:
        active = 0
    start = layers + 1 - active
    if gpus == 1 and active == layers + 1:
        return rows, ()
    devices = [gpus if layer < start else (layer - start) * gpus // active for layer in range(layers)]
    placed = []
    for device in range(gpus + 1):
        parts = ((row, tuple(layer for layer in row.layers if devices[layer] == device)) for row in rows)
        placed.append(tuple(row._replace(layers=mine) for row, mine in parts if mine))
    return tuple(placed)


def _assumptions(
    setup: Setup, settings: Settings, rows: tuple[Row, ...], types: tuple[Dtype, Dtype]
) -> tuple[str, ...]:
    found = []
    if not setup.asked & {"key", "value"}:
        found.append("cache type f16, llama.cpp's default")
    if any(row.role == "state" for row in rows):
        found.append("recurrent states and convolution tails are float32, whatever type is asked")
    if settings.n_ctx is not None:
        found.append("n_ctx is fixed: the slots share it whatever -c says")
    if setup.layout.pp > 1:
        found.append("layers are split evenly, as on GPUs with equal free memory")
    if max(dtype.block_elements for dtype in types) > 1:
        found.append("row sizes of CPU, Vulkan and Metal; CUDA pads quantised rows to a multiple of 512 elements")
    return tuple(found)
