"""vLLM: blocks of tokens, drawn by every group of layers from one pool.

Read from vLLM 0.33.0; numbers checked against its own planning code at full model sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvcalc.core.component import Encoder
from kvcalc.core.model import Model
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.vllm import archs
from kvcalc.engines.vllm.build import build
from kvcalc.engines.vllm.layers import check_layout
from kvcalc.engines.vllm.planner import VllmPlanner, make_planner
from kvcalc.engines.vllm.settings import OPTIONS, read_settings
from kvcalc.engines.vllm.versions import RULES


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "vllm"
    versions: tuple[str, ...] = tuple(RULES)
    verified_by: str = "vLLM's own planning code at full model sizes; its CPU engine on demand"
    summary: str = "paged blocks per group of layers, worst-case admission"
    options: tuple[Option, ...] = OPTIONS

    def prepare(self, model: Model, setup: Setup) -> VllmPlanner:
        """Groups, block sizes and bytes per block.

        Raises: EngineRefusal where vLLM would not start; UsageError for a bad option.
        """
        crosses = any(isinstance(c.law, Encoder) for kind in model.blocks.values() for c in kind.lower())
        archs.check_supported(model, crosses=crosses)
        components = [component for kind in model.blocks.values() for component in kind.lower()]
        settings = read_settings(
            model,
            setup,
            has_states=any(component.role in ("conv", "state") for component in components),
            has_attention=any(component.role in ("key", "value") for component in components),
            crosses=crosses,
        )
        warnings = (*check_layout(model, settings), *archs.unstated(model, settings.asked_ssm_dtype))
        built = build(model, settings)
        exact = not settings.has_states or archs.checked_states(model)
        if not exact:
            warnings = (*warnings, f"recurrent layers of {model.architecture} were not compared with vLLM's numbers")
        exactness = "exact" if exact else "estimate"
        return make_planner(model, setup, settings, built, exactness=exactness, warnings=warnings)


ENGINE = VllmEngine()
