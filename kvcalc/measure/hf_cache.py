"""The cache classes of transformers themselves, filled at real size, against the plan of the `transformers` engine.

The library decides which layers there are, how long each one grows, what it pads and which storage stays behind a
view. Heads and widths of the states come from the plan, as a model's own code would hand them over.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import Ask, Prepared, prepare
from kvcalc.core.plan import Load, RankPlan, Tensor
from kvcalc.errors import CannotMeasure, KvcalcError, UsageError
from kvcalc.measure.answer import frame
from kvcalc.measure.report import combine, sizes_of
from kvcalc.measure.torch_backend import Device, Held, OutOfRoom, failed, import_torch, stored_as
from kvcalc.targets import Target
from kvcalc.units import gib

if TYPE_CHECKING:
    from kvcalc.core.result import MeasuredRank, MeasuredTensor

ENGINE = "transformers"
#: Bytes of counters that a layer keeps on the device beside the cache: its length, its window.
_COUNTERS = ("cumulative_length", "_sliding_window_tensor", "indexer_cumulative_length")


def measure_cache(target: Target, ask: Ask, device: Device) -> dict[str, Any]:
    """The answer of `kvcalc measure --cache transformers`.

    Raises: UsageError for another engine or layout; CannotMeasure without transformers, without the model's config, or
    where the device has not enough memory.
    """
    ask = _asked(ask)
    ready = prepare(target, ask, gpu=None)
    plans = ready.planner.plan(ready.load).ranks
    if len(plans) != 1 or len(plans[0].ranks) != 1:
        raise UsageError("--cache transformers measures one process", fix="leave out --pp and --dp", field="cache")
    config = _config(target)
    _check_room(plans[0], device)
    try:
        rank = _measure(plans[0], ready, config, device)
    except OutOfRoom as error:
        raise CannotMeasure(
            f"an allocation failed on {device.name}: {error}", fix="free memory there, or measure a shorter context"
        ) from None
    answer = {**frame(ready, ask, cache=ENGINE), **combine([rank], device.info())}
    version = _library().__version__
    answer["assumptions"].append(f"classes of transformers {version}, filled with one prefill and one decode step")
    return answer


def _asked(ask: Ask) -> Ask:
    """The same question to the transformers engine; an allocator sees storages, so that view unless one was asked.

    Raises: UsageError.
    """
    name = ask.engine.partition("@")[0]
    if name not in ("ideal", ENGINE):
        raise UsageError(
            f"--cache transformers is not the cache of {name}", fix="leave out --engine", field="engine", value=name
        )
    options = ask.engine_options
    if not any(option.partition("=")[0].strip() == "view" for option in options):
        options = (*options, "view=resident")
    return ask._replace(engine=ENGINE if name == "ideal" else ask.engine, engine_options=options)


def _library() -> Any:
    """Raises: CannotMeasure where transformers is not installed."""
    import_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers
    except ImportError:
        raise CannotMeasure("--cache transformers needs transformers: pip install transformers==5.23.0") from None
    return transformers


def _config(target: Target) -> Any:
    """The library's own config of the model, from the config.json that was named; never from the network.

    Raises: CannotMeasure.
    """
    path = Path(target.origin)
    if target.origin.startswith("registry:") or path.suffix != ".json" or not path.is_file():
        raise CannotMeasure(
            f"the classes of transformers are built from a config.json, which {target.origin} is not",
            fix="name the model's config.json, or the folder it is in",
            field="target",
        )
    library = _library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # No code that comes with a checkpoint is ever run, and nobody is asked whether it may.
            return library.AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - the border to a library that raises what it likes
        text = str(error).strip().split("\n", 1)[0]
        raise CannotMeasure(f"transformers does not read {path}: {text}", fix="choose another config") from None


def _check_room(plan: RankPlan, device: Device) -> None:
    """Raises: CannotMeasure. A layer grows by copying: its old and its new tensors exist together."""
    sizes = list(sizes_of(plan.tensors))
    free, need = device.free_bytes(), device.need_bytes(sizes) + 4 * max(sizes, default=0)
    if free is not None and need > free:
        raise CannotMeasure(
            f"{device.name} has {gib(free)} free, filling the cache takes {gib(need)}: {gib(need - free)} are missing",
            fix="measure a shorter context",
            field="context",
        )


def _measure(plan: RankPlan, ready: Prepared, config: Any, device: Device) -> MeasuredRank:
    """Build, fill, count, free. Raises: OutOfRoom, CannotMeasure."""
    before = device.used_bytes()
    with device.hold() as held:
        cache = _build(ready, config)
        found = [_Layer(layer, plan, index) for index, layer in enumerate(cache.layers)]
        for layer in found:
            _library_call(partial(layer.fill, ready.load, device.name))
        rows = [_row(tensor, found) for tensor in plan.tensors]
        counters = sum(layer.counter_bytes(device.name) for layer in found)
        totals, used = _totals(held, found, device), device.used_bytes()
        del cache, found
    requested = totals - counters
    return {
        "ranks": list(plan.ranks),
        "predicted_bytes": plan.bytes,
        "requested_bytes": requested,
        "allocated_bytes": None,
        "reserved_bytes": None,
        "expected_allocated_bytes": None,
        "expected_reserved_bytes": None,
        "device_used_before_bytes": before,
        "device_used_bytes": used,
        "equal": requested == plan.bytes and all(row["equal"] for row in rows),
        "tensors": rows,
    }


def _totals(held: Held, layers: list[_Layer], device: Device) -> int:
    """Requested bytes of everything that is alive: the pool's on CUDA, all storages elsewhere."""
    if device.name.startswith("cuda"):
        return held.totals().requested_bytes
    return sum(layer.stored_bytes() + layer.counter_bytes(device.name) for layer in layers)


def _library_call(call: Callable[[], Any]) -> Any:
    """Run the library's code; what it refuses becomes an expected error. Raises: CannotMeasure, OutOfRoom."""
    try:
        return call()
    except KvcalcError:
        raise
    except Exception as error:  # noqa: BLE001 - the border to a library that raises what it likes
        text = f"{type(error).__name__}: {error}".strip().split("\n", 1)[0]
        said = failed(error)
    if said is not None:
        raise OutOfRoom(said)
    raise CannotMeasure(f"the classes of transformers refuse this cache: {text}", fix="measure the plan alone")


def _build(ready: Prepared, config: Any) -> Any:
    """The cache object that the options ask for."""
    library = _library()
    kind = str(ready.setup.options.get("cache") or "dynamic")
    if kind == "static":
        tokens = ready.load.context_tokens
        return _library_call(lambda: library.StaticCache(config=config, max_cache_len=tokens))
    if kind == "fp8":
        return _library_call(lambda: library.QuantizedCache("fp8", config))
    return _library_call(lambda: library.DynamicCache(config=config))


class _Layer:
    """One layer of the library's cache and the plan's tensors that belong to it."""

    def __init__(self, layer: Any, plan: RankPlan, index: int) -> None:
        self.layer, self.index = layer, index
        mine = [tensor for tensor in plan.tensors if index in tensor.layers]
        self.scales = [tensor for tensor in mine if tensor.name.endswith("_scale")]
        self.index_keys = [tensor for tensor in mine if tensor.name.startswith("index")]
        rest = [tensor for tensor in mine if tensor not in self.scales and tensor not in self.index_keys]
        self.convs = [tensor for tensor in rest if "conv" in tensor.name]
        self.states = [tensor for tensor in rest if tensor not in self.convs and tensor.law == "constant"]
        self.pair = [tensor for tensor in rest if tensor not in self.convs and tensor not in self.states]

    def fill(self, load: Load, device: str) -> None:
        """One prefill of all tokens but the last, then a decode step, as generate does.

        Raises: CannotMeasure where the library's layer takes other states than the plan has.
        """
        if len(self.pair) > 2 or len(self.index_keys) > 1:
            raise CannotMeasure(
                f"layer {self.index} ({type(self.layer).__name__}) keeps more than keys and values",
                fix="measure the plan alone: leave out --cache",
            )
        torch = import_torch()
        for tokens in [load.context_tokens - 1, 1] if load.context_tokens > 1 else [1]:
            if self.pair:
                self.layer.update(*self._keys_and_values(torch, tokens, load.sessions, device))
            for tensor in self.index_keys:
                index_shape = (load.sessions, tokens, tensor.shape[-1])
                self.layer.update_indexer(_ones(torch, index_shape, tensor, device))
        for place, tensor in enumerate(self.convs):
            # (sessions, channels, kernel): the plan counts the kernel as slots
            conv_shape = (load.sessions, *tensor.shape[2:], tensor.shape[1])
            self.layer.update_conv_state(_ones(torch, conv_shape, tensor, device), place)
        for place, tensor in enumerate(self.states):
            shape = (load.sessions, *tensor.shape[2:])
            self.layer.update_recurrent_state(_ones(torch, shape, tensor, device), place)

    def _keys_and_values(self, torch: Any, tokens: int, sessions: int, device: str) -> list[Any]:
        """(sessions, heads, tokens, width) each; one tensor in the plan: the values have no width."""
        made = []
        for tensor in self.pair:
            heads, width = tensor.shape[-2:] if len(tensor.shape) > 3 else (1, tensor.shape[-1])
            source = tensor._replace(dtype="bfloat16") if self.scales else tensor  # quantised by the layer itself
            made.append(_ones(torch, (sessions, heads, tokens, width), source, device))
        return made if len(made) > 1 else [made[0], made[0][..., :0]]

    def held_by(self, tensor: Tensor) -> Any:
        """What the library stores for one tensor of the plan."""
        layer = self.layer
        if tensor in self.index_keys:
            return layer.indexer_keys
        if tensor in self.convs:
            return layer.conv_states[self.convs.index(tensor)]
        if tensor in self.states:
            return layer.recurrent_states[self.states.index(tensor)]
        second = self.scales.index(tensor) if tensor in self.scales else self.pair.index(tensor)
        if self.scales:
            quantised = (layer._quantized_keys, layer._quantized_values)[second]  # noqa: SLF001  no public reader
            return quantised[1 if tensor in self.scales else 0]
        return (layer.keys, layer.values)[second]

    def tensors(self) -> Iterator[Tensor]:
        yield from (*self.pair, *self.scales, *self.index_keys, *self.convs, *self.states)

    def stored_bytes(self) -> int:
        """All storages of the layer, each once."""
        found = [self.held_by(tensor).untyped_storage() for tensor in self.tensors()]
        # _cdata is the storage itself: addresses are all zero on `meta`.
        return sum({storage._cdata: int(storage.nbytes()) for storage in found}.values())  # noqa: SLF001

    def counter_bytes(self, device: str) -> int:
        """Lengths and windows that the layer keeps as tensors on this device."""
        values = [value for key, value in vars(self.layer).items() if key in _COUNTERS]
        return sum(
            value.untyped_storage().nbytes()
            for value in values
            if hasattr(value, "untyped_storage") and str(value.device) == device
        )


def _ones(torch: Any, shape: tuple[int, ...], tensor: Tensor, device: str) -> Any:
    return torch.ones(shape, dtype=getattr(torch, stored_as(tensor).dtype), device=device)


def _row(tensor: Tensor, layers: list[_Layer]) -> MeasuredTensor:
    """One row of the plan: the storages behind it in all its layers."""
    held = [layers[index].held_by(tensor) for index in tensor.layers]
    requested = sum(int(one.untyped_storage().nbytes()) for one in held)
    return {
        "name": tensor.name,
        "kind": tensor.kind,
        "block": tensor.block,
        "count": len(held),
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "stored_as": str(held[0].dtype).removeprefix("torch.") if held else "",
        "predicted_bytes": tensor.bytes,
        "requested_bytes": requested,
        "allocated_bytes": None,
        "equal": requested == tensor.bytes,
    }
