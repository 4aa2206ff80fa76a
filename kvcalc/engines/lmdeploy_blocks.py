"""What one block and one state slot of LMDeploy's PyTorch engine hold.

Source: lmdeploy 0.18.0, pytorch/engine/cache_engine/schema.py, layout.py, state.py; configurations/qwen3_next.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from kvcalc.core.component import Component, Constant
from kvcalc.units import ceil_div

ALIGNMENT = 256

#: quant_policy -> (K elements per byte, V elements per byte, K parameters, V parameters per token and head).
#: 0: elements of the model's own 2-byte type. Source: messages.py `QuantPolicy`, schema.py `build_quant_cache_descs`.
POLICIES = {
    0: (0, 0, 0, 0),
    4: (2, 2, 2, 2),
    8: (1, 1, 2, 2),
    16: (1, 1, 0, 0),
    17: (1, 1, 0, 0),
    42: (2, 4, 2, 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """One block of one layer on one rank: name -> (shape of one block, dtype, bytes rounded up)."""

    arrays: tuple[tuple[str, tuple[int, ...], str, int], ...]
    layers: tuple[int, ...]

    @property
    def block_bytes(self) -> int:
        """All layers together: `block_nbytes`."""
        return len(self.layers) * sum(size for *_, size in self.arrays)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSlot:
    """One state slot on one rank, all layers: (name, shape, bytes)."""

    arrays: tuple[tuple[str, tuple[int, ...], int], ...]
    layers: tuple[int, ...]

    @property
    def slot_bytes(self) -> int:
        return sum(size for *_, size in self.arrays)


def block_arrays(
    heads: int, key_dim: int, value_dim: int, *, block: int, policy: int
) -> tuple[tuple[str, tuple[int, ...], str, int], ...]:
    per_key, per_value, key_extra, value_extra = POLICIES[policy]
    found: list[tuple[str, tuple[int, ...], str, int]] = []
    for name, width, packed in (("key", key_dim, per_key), ("value", value_dim, per_value)):
        stored = width // packed if packed else width
        size = block * heads * stored * (1 if packed else 2)
        dtype = "bfloat16" if not packed else "fp8_e4m3" if policy in (16, 17) else "int8"
        found.append((name, (block, heads, stored), dtype, _aligned(size)))
    for name, extra in (("key_scale_zero", key_extra), ("value_scale_zero", value_extra)):
        if extra:  # in the model's own 2-byte type
            found.append((name, (), "int8", _aligned(block * heads * extra * 2)))
    return tuple(row for row in found if row[3])


def _aligned(size: int) -> int:
    return ceil_div(size, ALIGNMENT) * ALIGNMENT


def state_slot(states: dict[str, list[Component]], layers: tuple[int, ...], tp: int) -> StateSlot:
    """Gated DeltaNet: the convolution keeps all its taps, one row more than it needs; both arrays in bfloat16.

    Source: configurations/qwen3_next.py, qwen3_5.py.
    """
    found = []
    for part in next(iter(states.values())):
        units = [(item.units // tp) * item.width for item in part.parts]
        count = len(layers)
        if part.role == "conv" and isinstance(part.law, Constant):
            shape: tuple[int, ...] = (count, sum(units), part.law.count + 1)
        else:
            shape = (count, part.parts[0].units // tp, part.parts[0].width)
        found.append((part.name, shape, prod(shape) * 2))
    return StateSlot(arrays=tuple(found), layers=layers)
