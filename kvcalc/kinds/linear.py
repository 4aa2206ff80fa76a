"""Linear attention: a matrix per head replaces the growing cache (Gated DeltaNet, KDA, lightning attention)."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, Part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.kinds._check import need_divides, need_int, need_optional_int
from kvcalc.kinds.ssm import conv_state, state


class GatedDeltaNet(Record):
    """Key heads and value heads of their own widths; one [key_dim, value_dim] matrix per value head.

    Source: Gated DeltaNet (arXiv:2412.06464); transformers 5.23 qwen3_next/modeling_qwen3_next.py:599,695;
    vLLM 0.33 mamba_utils.py: conv (2 x Hk x dk + Hv x dv)/tp x (k-1), state Hv/tp x dv x dk.
    """

    kind: Literal["gated_deltanet"]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int

    def __post_init__(self) -> None:
        for name in ("key_heads", "value_heads", "key_dim", "value_dim"):
            need_int(name, getattr(self, name))
        need_int("conv_kernel", self.conv_kernel, least=2)
        need_divides("value_heads", self.value_heads, "key_heads", self.key_heads)

    def lower(self) -> tuple[Component, ...]:
        """conv_state [conv_kernel - 1, 2 x key_heads x key_dim + value_heads x value_dim]; recurrent_state."""
        query_and_key = Part(self.key_heads, 2 * self.key_dim, "channels")
        values = Part(self.value_heads, self.value_dim, "channels")
        matrix = Part(self.value_heads, self.key_dim * self.value_dim, "channels")
        return (conv_state(self.conv_kernel, query_and_key, values), state("recurrent_state", matrix))

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


class KimiDeltaAttention(Record):
    """KDA: `heads` heads, keys of head_dim, values of v_head_dim (= head_dim when absent).

    Source: Kimi Linear report (arXiv:2510.26692) section 3; transformers 5.23
    kimi_linear/modeling_kimi_linear.py:589,652; vLLM 0.33 mamba_utils.py `kda_state_shape`.
    """

    kind: Literal["kda"]
    heads: int
    head_dim: int
    conv_kernel: int
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        need_int("heads", self.heads)
        need_int("head_dim", self.head_dim)
        need_int("conv_kernel", self.conv_kernel, least=2)
        need_optional_int("v_head_dim", self.v_head_dim)

    def lower(self) -> tuple[Component, ...]:
        """conv_state [conv_kernel - 1, heads x (2 x head_dim + v_head_dim)]; recurrent_state: a matrix per head."""
        value_dim = self.head_dim if self.v_head_dim is None else self.v_head_dim
        channels = Part(self.heads, 2 * self.head_dim + value_dim, "channels")
        matrix = Part(self.heads, self.head_dim * value_dim, "channels")
        return (conv_state(self.conv_kernel, channels), state("recurrent_state", matrix))

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


class LightningAttention(Record):
    """One [head_dim, head_dim] matrix per head, no convolution.

    Source: MiniMax-01 (arXiv:2501.08313) section 2.2; transformers 5.23 minimax/modeling_minimax.py:72-110.
    """

    kind: Literal["lightning"]
    heads: int
    head_dim: int

    def __post_init__(self) -> None:
        need_int("heads", self.heads)
        need_int("head_dim", self.head_dim)

    def lower(self) -> tuple[Component, ...]:
        """recurrent_state [heads, head_dim, head_dim]."""
        return (state("recurrent_state", Part(self.heads, self.head_dim * self.head_dim, "channels")),)

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


class MatrixLstm(Record):
    """mLSTM cell of xLSTM: per head a [key_dim, value_dim] matrix, a normaliser of key_dim and a running maximum.

    Source: xLSTM (arXiv:2405.04517) section 2.3; transformers 5.23 xlstm/modeling_xlstm.py:1332-1358 (xLSTMCache).
    """

    kind: Literal["mlstm"]
    heads: int
    key_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        for name in ("heads", "key_dim", "value_dim"):
            need_int(name, getattr(self, name))

    def lower(self) -> tuple[Component, ...]:
        """matrix_state [heads, key_dim, value_dim]; normaliser_state [heads, key_dim]; max_state [heads]."""
        return (
            state("matrix_state", Part(self.heads, self.key_dim * self.value_dim, "channels")),
            state("normaliser_state", Part(self.heads, self.key_dim, "channels")),
            state("max_state", Part(self.heads, 1, "channels")),
        )

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0
