"""The widths that decide a model's activations and how its weights divide: read from the file, never guessed.

Not the cache: that is `kvcalc.kinds`.
"""

from __future__ import annotations

from kvcalc.core.light import NamedTuple
from kvcalc.core.model import Model
from kvcalc.errors import UsageError
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.latent import LatentAttention

#: config.json spellings of one fact, the usual one first.
_DENSE = ("intermediate_size", "ffn_hidden_size", "n_inner", "decoder_ffn_dim")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk")
_EXPERT_WIDTH = ("moe_intermediate_size", "expert_intermediate_size", "expert_ffn_hidden_size")
#: Every so many layers one has experts (Llama 4, Jamba); absent: all of them.
_EXPERT_PERIOD = ("interleave_moe_layer_step", "expert_layer_period")
#: A derived dense width above this many times the hidden size is a mixture of experts that does not say so.
_WIDEST = 8


class Shape(NamedTuple):
    """hidden, vocab, layers; dense_width: feed-forward width (0: none known); experts with their width and how
    many a token uses (0: a dense model); dense_layers: layers without experts; tied: embedding and output
    head are one matrix (None: not stated). notes: what was derived.
    """

    hidden: int
    vocab: int
    layers: int
    dense_width: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0
    dense_layers: int = 0
    tied: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def expert_parameters(self) -> int:
        """Of all routed experts of all layers: gate, up and down projections."""
        return (self.layers - self.dense_layers) * self.layer_expert_parameters

    @property
    def layer_expert_parameters(self) -> int:
        return self.experts * 3 * self.hidden * self.expert_width


def read_shape(model: Model) -> Shape:
    """The widths of `model`.

    Raises: UsageError naming the fact that is missing.
    """
    for field in ("hidden_size", "vocab_size"):
        if getattr(model, field) is None:
            raise _missing(model, field, f"add {field}: to the file")
    shape = known_shape(model)
    if shape.experts and not (shape.expert_width and shape.experts_per_token):
        raise _missing(model, "the width and number of its active experts", _fix(_EXPERT_WIDTH[0], _PER_TOKEN[0]))
    if shape.experts or shape.dense_width:
        return shape
    width = _derived_width(model, shape)
    if width is None:
        raise _missing(model, "the width of its feed-forward layers", _fix(_DENSE[0]))
    note = f"feed-forward width {width:,}: derived from the number of parameters"
    return shape._replace(dense_width=width, notes=(note,))


def known_shape(model: Model) -> Shape:
    """What the file says; 0 where it says nothing."""
    experts = _fact(model, _EXPERTS)
    dense = _fact(model, _DENSE)
    width = _fact(model, _EXPERT_WIDTH) if experts else 0
    shared = _fact(model, ("shared_expert_intermediate_size",))
    if experts and not width:
        width = dense  # Mixtral, gpt-oss: every feed-forward layer is made of experts of this width
    if experts and not shared:
        shared = _fact(model, ("n_shared_experts",)) * width
    tied = model.facts.get("tie_word_embeddings")
    return Shape(
        hidden=model.hidden_size or 0,
        vocab=model.vocab_size or 0,
        layers=len(model.layers),
        dense_width=dense,
        experts=experts,
        experts_per_token=_fact(model, _PER_TOKEN) if experts else 0,
        expert_width=width,
        shared_width=shared,
        dense_layers=_dense_layers(model) if experts else 0,
        tied=tied if isinstance(tied, bool) else None,
    )


def _dense_layers(model: Model) -> int:
    """Layers without experts in a mixture: the first ones, or all but every n-th."""
    layers = len(model.layers)
    period = _fact(model, _EXPERT_PERIOD) or 1
    return _fact(model, ("first_k_dense_replace",)) or layers - layers // period


def _fact(model: Model, names: tuple[str, ...]) -> int:
    return next((value for name in names if type(value := model.facts.get(name)) is int and value > 0), 0)


def _fix(*names: str) -> str:
    facts = ", ".join(f"{name}: N" for name in names)
    return f"add facts: {{{facts}}} to the file (config.json names), or give --overhead or --pool"


def _missing(model: Model, what: str, fix: str) -> UsageError:
    return UsageError(f"{model.name} does not say {what}: its activations are unknown", fix=fix, field="facts")


def attention_parameters(model: Model) -> int:
    """Of all attention layers with heads or latents (projections only); others count 0."""
    hidden, total = model.hidden_size or 0, 0
    for name, layers in model.stage_blocks(0, len(model.layers)).items():
        kind = model.blocks[name]
        if isinstance(kind, HeadAttention):
            query = kind.heads * (kind.head_dim + kind.value_dim)
            total += len(layers) * hidden * (query + kind.kv_heads * (kind.head_dim + kind.value_dim))
        elif isinstance(kind, LatentAttention):
            total += len(layers) * (latent_down_parameters(model, kind) + _latent_up_parameters(model, kind))
    return total


def key_value_parameters(model: Model) -> dict[int, int]:
    """KV heads -> parameters of the K and V projections of the layers with so many."""
    found: dict[int, int] = {}
    for name, layers in model.stage_blocks(0, len(model.layers)).items():
        kind = model.blocks[name]
        if isinstance(kind, HeadAttention):
            wide = (model.hidden_size or 0) * kind.kv_heads * (kind.head_dim + kind.value_dim)
            found[kind.kv_heads] = found.get(kind.kv_heads, 0) + len(layers) * wide
    return found


def latent_down_parameters(model: Model, kind: LatentAttention) -> int:
    """Projections into the latents of one layer: every tensor parallel rank keeps them whole."""
    query = model.facts.get("q_lora_rank")
    rank = query if type(query) is int else 0
    return (model.hidden_size or 0) * (rank + kind.latent_dim + kind.rope_dim)


def _latent_up_parameters(model: Model, kind: LatentAttention) -> int:
    query = model.facts.get("q_lora_rank")
    source = query if type(query) is int else (model.hidden_size or 0)
    nope, value = kind.nope_dim or 0, kind.v_head_dim or 0
    out = (model.hidden_size or 0) * value
    return kind.heads * (source * (nope + kind.rope_dim) + kind.latent_dim * (nope + value) + out)


def _derived_width(model: Model, shape: Shape) -> int | None:
    """What the parameters leave for gate, up and down projections, per layer; None where that is no dense model."""
    if model.parameters is None or not shape.hidden or not shape.layers:
        return None
    embeddings = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    rest = model.parameters - embeddings - attention_parameters(model)
    width = rest // (3 * shape.hidden * shape.layers)
    return width if 0 < width <= _WIDEST * shape.hidden else None
