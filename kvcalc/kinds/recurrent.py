"""Recurrences without a matrix per attention head: RG-LRU, RWKV and the plain short convolution."""

from __future__ import annotations

from collections.abc import Mapping

from kvcalc.core.component import Component, Part
from kvcalc.core.light import Literal, Record
from kvcalc.core.model import Kind
from kvcalc.kinds._check import need_divides, need_int, need_optional_int
from kvcalc.kinds.ssm import conv_state, state


class RgLru(Record):
    """Real-gated linear recurrent unit: `width` states and a conv tail over `conv_dim` (= width) channels.

    Source: Griffin (arXiv:2402.19427) section 2.4; transformers 5.23
    recurrent_gemma/modeling_recurrent_gemma.py:431-447 (conv [lru_width, K - 1], state [lru_width]).
    """

    kind: Literal["rglru"]
    width: int
    conv_kernel: int
    conv_dim: int | None = None

    def __post_init__(self) -> None:
        need_int("width", self.width)
        need_int("conv_kernel", self.conv_kernel, least=2)
        need_optional_int("conv_dim", self.conv_dim)

    def lower(self) -> tuple[Component, ...]:
        """conv_state [conv_kernel - 1, conv_dim]; lru_state [width]."""
        channels = Part(self.width if self.conv_dim is None else self.conv_dim, 1, "channels")
        return (
            conv_state(self.conv_kernel, channels, name="lru_conv_state"),
            state("lru_state", Part(self.width, 1, "channels")),
        )

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


class Rwkv(Record):
    """Token-shift vectors of `hidden_dim` (`shifts` of them), and the wkv state.

    shifts: 2, one for the time mix and one for the channel mix; 1 where the channel mix has none (RWKV-6 and 7 heads
    on a Qwen2 body).
    head_dim given (RWKV-5, 6, 7): one [head_dim, head_dim] matrix per head of hidden_dim.
    head_dim absent (RWKV-4): numerator, denominator and running maximum of `attention_dim` (= hidden_dim) each.

    Source: RWKV (arXiv:2305.13048) section 3; Eagle and Finch (arXiv:2404.05892) section 4;
    transformers 5.23 rwkv/modeling_rwkv.py:168-171; llama.cpp llama-hparams.cpp n_embd_r, n_embd_s.
    """

    kind: Literal["rwkv"]
    hidden_dim: int
    head_dim: int | None = None
    attention_dim: int | None = None
    shifts: int = 2

    def __post_init__(self) -> None:
        need_int("hidden_dim", self.hidden_dim)
        need_int("shifts", self.shifts, most=2)
        need_optional_int("head_dim", self.head_dim)
        need_optional_int("attention_dim", self.attention_dim)
        if self.head_dim is not None:
            need_divides("hidden_dim", self.hidden_dim, "head_dim", self.head_dim)

    def lower(self) -> tuple[Component, ...]:
        """shift_state [shifts, hidden_dim] (the previous token's); wkv_state."""
        shift = conv_state(self.shifts + 1, Part(1, self.hidden_dim, "replicated"), name="shift_state")
        if self.head_dim is not None:
            heads = self.hidden_dim // self.head_dim
            return (shift, state("wkv_state", Part(heads, self.head_dim * self.head_dim, "channels")))
        width = self.hidden_dim if self.attention_dim is None else self.attention_dim
        return (shift, state("wkv_state", Part(width, 3, "channels")))

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0


class ShortConv(Record):
    """A gated short convolution and nothing else: the last conv_kernel - 1 inputs of `dim` channels.

    Source: LFM2 (arXiv:2511.23404) section 2; transformers 5.23 lfm2/modeling_lfm2.py:368;
    vLLM 0.33 mamba_utils.py `short_conv_state_shape`: dim/tp x (L - 1).
    """

    kind: Literal["short_conv"]
    dim: int
    conv_kernel: int

    def __post_init__(self) -> None:
        need_int("dim", self.dim)
        need_int("conv_kernel", self.conv_kernel, least=2)

    def lower(self) -> tuple[Component, ...]:
        """conv_state [conv_kernel - 1, dim]."""
        return (conv_state(self.conv_kernel, Part(self.dim, 1, "channels")),)

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return 0, 0
