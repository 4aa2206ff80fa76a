"""Where a GPU's memory goes before the cache gets any: total, weights, overhead, and what is left (the pool).

A first ledger: weights divided evenly over TP x PP ranks, and one overhead line that is an estimate and says so.
Replace it with a measured number (--overhead) or give the pool an engine printed (--pool).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.dtypes import get_dtype
from kvcalc.errors import UsageError
from kvcalc.units import GIB, ceil_div

if TYPE_CHECKING:
    from kvcalc.core.result import LedgerLine

#: vLLM's default gpu_memory_utilization is 0.92 (0.33, config/cache.py:215): the rest stays unused.
_UNUSED_PERCENT = 8
#: Median of what activations, CUDA graphs and the driver took in 52 vLLM start-up logs (versions 0.6 to 0.31,
#: quoted in public issues), by the card's size: (up to this many bytes, hundredths of a GiB).
_OVERHEAD = ((30 * GIB, 108), (60 * GIB, 233), (120 * GIB, 318), (None, 406))


class Ledger(NamedTuple):
    """The lines of one GPU, the fullest one; they sum to `pool_bytes` (negative: the weights do not fit)."""

    lines: tuple[LedgerLine, ...]

    @property
    def pool_bytes(self) -> int:
        return sum(line["bytes"] for line in self.lines)


def weight_bytes(model: Model, weight_dtype: str | None) -> tuple[int, str, str]:
    """Bytes of all weights, their source and exactness: asked type, else checkpoint, else parameters x own type.

    Raises: UsageError when the file says neither parameters nor bytes.
    """
    stored = model.weights
    if weight_dtype is None and stored is not None and stored.bytes is not None:
        return stored.bytes, stored.source or "checkpoint size", "estimate" if stored.rounded else "exact"
    if model.parameters is None:
        raise UsageError(
            f"{model.name} does not say its parameters, so its weights are unknown",
            fix="add parameters: (or weights: {bytes: ...}) to the file, or give --pool BYTES",
            field="parameters",
        )
    if weight_dtype is None and (stored is None or stored.dtype is None) and "quant_method" in model.facts:
        raise UsageError(
            f"{model.name} is a quantised checkpoint ({model.facts['quant_method']}) of unknown size",
            fix="give --weight-dtype (fp8, mxfp4 ...), or weights: {bytes: ...} in the file, or --pool BYTES",
            field="weights",
        )
    own = stored.dtype if stored is not None and stored.dtype else model.dtype
    name = own if weight_dtype is None else weight_dtype
    dtype = get_dtype(name, field="weight-dtype")
    return dtype.row_bytes(model.parameters), f"{model.parameters:,} parameters x {dtype.name}", "estimate"


def overhead_bytes(gpu: Gpu) -> int:
    """The labelled estimate of what is neither weights nor cache."""
    usual = next(share for most, share in _OVERHEAD if most is None or gpu.total_bytes < most)
    return gpu.total_bytes * _UNUSED_PERCENT // 100 + usual * GIB // 100


def build_ledger(
    model: Model, gpu: Gpu, layout: Layout, *, weight_dtype: str | None = None, overhead: int | None = None
) -> Ledger:
    """The memory of each GPU of `layout`.

    overhead: bytes that replace the estimate.

    Raises: UsageError when the weights are unknown.
    """
    weights, source, exactness = weight_bytes(model, weight_dtype)
    parts = layout.tp * layout.pp
    known = "exact" if gpu.total_is == "driver" else "estimate"
    total_source = "driver's total" if gpu.total_is == "driver" else "marketed size; the driver reports less"
    if parts > 1:
        source, exactness = f"{source}, divided by {parts}", "estimate"
    lines: list[LedgerLine] = [
        {"item": f"{gpu.name} memory", "bytes": gpu.total_bytes, "source": total_source, "exactness": known},
        {"item": "weights", "bytes": -ceil_div(weights, parts), "source": source, "exactness": exactness},
    ]
    if overhead is None:
        rule = f"{_UNUSED_PERCENT} % left unused + median of 52 start-up logs; replace with --overhead"
        lines.append({"item": "overhead", "bytes": -overhead_bytes(gpu), "source": rule, "exactness": "estimate"})
    else:
        lines.append({"item": "overhead", "bytes": -overhead, "source": "--overhead", "exactness": "exact"})
    return Ledger(tuple(lines))
