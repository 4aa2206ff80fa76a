"""State-space layers: Mamba and Mamba-2. A convolution tail and a recurrent state, both of constant size."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, Constant, Part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.kinds._check import need_divides, need_int


class Mamba1(Record):
    """inner_dim channels: a conv tail of conv_kernel - 1 inputs and a state of [inner_dim, state_dim].

    Source: Mamba (arXiv:2312.00752) section 3.4, reference `MambaInner`; vLLM 0.33
    layers/mamba/mamba_utils.py `mamba1_state_shape`: conv I/tp x (k-1), ssm I/tp x N.
    """

    kind: Literal["mamba1"]
    inner_dim: int
    state_dim: int
    conv_kernel: int

    def __post_init__(self) -> None:
        need_int("inner_dim", self.inner_dim)
        need_int("state_dim", self.state_dim)
        need_int("conv_kernel", self.conv_kernel, least=2)

    def lower(self) -> tuple[Component, ...]:
        """conv_state [conv_kernel - 1, inner_dim]; ssm_state [inner_dim, state_dim]."""
        channels = Part(self.inner_dim, 1, "channels")
        return (
            conv_state(self.conv_kernel, channels),
            state("ssm_state", Part(self.inner_dim, self.state_dim, "channels")),
        )

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


class Mamba2(Record):
    """`heads` state heads of `head_dim`; B and C come in `groups` groups of `state_dim`.

    Source: Mamba-2 (arXiv:2405.21060) section 7; vLLM 0.33 layers/mamba/mamba_utils.py
    `mamba2_state_shape`: conv (H x P + 2 x G x N)/tp x (k-1), ssm H/tp x P x N.
    """

    kind: Literal["mamba2"]
    heads: int
    head_dim: int
    state_dim: int
    groups: int
    conv_kernel: int

    def __post_init__(self) -> None:
        for name in ("heads", "head_dim", "state_dim", "groups"):
            need_int(name, getattr(self, name))
        need_int("conv_kernel", self.conv_kernel, least=2)
        need_divides("heads", self.heads, "groups", self.groups)

    def lower(self) -> tuple[Component, ...]:
        """conv_state [conv_kernel - 1, heads x head_dim + 2 x groups x state_dim]; ssm_state, a matrix per head."""
        inputs = Part(self.heads, self.head_dim, "channels")
        b_and_c = Part(self.groups, 2 * self.state_dim, "heads")
        return (
            conv_state(self.conv_kernel, inputs, b_and_c),
            state("ssm_state", Part(self.heads, self.head_dim * self.state_dim, "channels")),
        )

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


def conv_state(kernel: int, *parts: Part, name: str = "conv_state") -> Component:
    """The inputs a causal convolution still needs: `kernel` - 1 of them, because the newest is in hand."""
    return Component(name=name, role="conv", law=Constant(kernel - 1), parts=parts)


def state(name: str, part: Part) -> Component:
    """One recurrent state."""
    return Component(name=name, role="state", law=Constant(), parts=(part,))
