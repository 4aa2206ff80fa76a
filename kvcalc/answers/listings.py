"""`models`, `gpus`, `engines`, `dtypes`: what is shipped."""

from __future__ import annotations

from kvcalc.answers.common import header
from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.document import plain
from kvcalc.dtypes import DTYPES
from kvcalc.engines import engine_names, get_engine
from kvcalc.registry import Registry, normal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.answers.rows import DtypeRow, EngineRow, GpuRow, ModelRow


def list_models(registry: Registry, *, match: str | None = None) -> dict[str, Any]:
    """Every shipped model whose name or alias contains `match`."""
    rows: list[ModelRow] = []
    for model in registry.models():
        words = [model.name, *model.aliases]
        if match and not any(normal(match) in normal(word) for word in words):
            continue
        rows.append(model_row(model))
    warnings = [f"{name}: {fault}" for name, fault in registry.broken().items()]
    return {**header("models", {"match": match}), "warnings": warnings, "results": rows}


def model_row(model: Model) -> ModelRow:
    return {
        "name": model.name,
        "aliases": list(model.aliases),
        "architecture": model.architecture,
        "layers": len(model.layers),
        "kinds": model.kinds_summary(),
        "parameters": model.parameters,
        "model_max_context": model.max_context,
        "dtype": model.dtype,
        "source": plain(model.source),
    }


def list_gpus(registry: Registry, *, match: str | None = None) -> dict[str, Any]:
    """Every GPU whose name or alias contains `match`, with the bytes the driver reports."""
    rows = [
        _gpu_row(gpu)
        for gpu in registry.gpus()
        if not match or any(normal(match) in normal(word) for word in (gpu.name, *gpu.aliases))
    ]
    return {**header("gpus", {"match": match}), "results": rows}


def _gpu_row(gpu: Gpu) -> GpuRow:
    """Fields that are not known are left out."""
    row: GpuRow = {key: list(value) if isinstance(value, tuple) else value for key, value in plain(gpu).items()}  # type: ignore[assignment]
    row["total_is"] = gpu.total_is
    row["aliases"] = list(gpu.aliases)
    row["prices"] = [plain(price) for price in gpu.prices]
    return row


def list_engines(name: str | None = None) -> dict[str, Any]:
    """The engines, or one engine's options.

    Raises: UsageError for an unknown engine.
    """
    rows: list[EngineRow] = []
    for each in (name,) if name else engine_names():
        engine, _ = get_engine(each)
        rows.append(
            {
                "name": engine.name,
                "versions": list(engine.versions),
                "verified_by": engine.verified_by,
                "summary": engine.summary,
                "options": [
                    {"name": o.name, "takes": o.parse, "default": o.default, "choices": list(o.choices), "help": o.help}
                    for o in engine.options
                ],
            }
        )
    return {**header("engines", {"name": name}), "results": rows}


def list_dtypes() -> dict[str, Any]:
    """The element types with their true bytes."""
    rows: list[DtypeRow] = [
        {
            "name": dtype.name,
            "aliases": list(dtype.aliases),
            "block_elements": dtype.block_elements,
            "block_bytes": dtype.block_bytes,
            "bits_per_element": dtype.bits_per_element,
            "family": dtype.family,
            "source": dtype.source,
        }
        for dtype in DTYPES.values()
    ]
    return {**header("dtypes", {}), "results": rows}
