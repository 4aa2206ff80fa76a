"""What each layer of a GGUF model keeps: the loaders of llama.cpp, as kinds.

Every rule names its source file under src/models/ of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from typing import Literal

from kvcalc.core.model import Kind
from kvcalc.errors import KvcalcError
from kvcalc.importers.gguf_metadata import Metadata
from kvcalc.kinds.compressed import CompressedAttention
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.indexer import Indexer
from kvcalc.kinds.latent import LatentAttention
from kvcalc.kinds.linear import GatedDeltaNet, KimiDeltaAttention, LightningAttention
from kvcalc.kinds.other import NoCache, SharedCache
from kvcalc.kinds.recurrent import Rwkv, ShortConv
from kvcalc.kinds.ssm import Mamba1, Mamba2

Layers = list[tuple[Kind, ...]]
#: Layers whose KV head count is 0 are recurrent (jamba.cpp, granite-hybrid.cpp, lfm2.cpp, kimi-linear.cpp ...).
_RECURRENT_BY_HEADS = frozenset(
    ("jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next")
)
#: Every n-th layer is full attention where the file has no array (qwen3next.cpp, qwen35.cpp, minimax-01.cpp).
_FULL_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
_KDA = frozenset(("kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next"))
_DELTA = frozenset(("qwen3next", "qwen35", "qwen35moe", "qwen4exp"))
#: Loaders that read ssm.group_count; the others leave it 0.
_SSM_GROUPS = frozenset(("mamba2", "falcon-h1", "granitehybrid", "nemotron_h", "nemotron_h_moe", "plamo2"))
#: glm-dsa.cpp, files without indexer types: GLM-5 and 5.1 index every layer; GLM-5.2 (a context of 1,048,576 or more)
#: indexes layers 0, 1, 2 and then every fourth.
_GLM_52_CONTEXT = 1_048_576


def layer_kinds(metadata: Metadata) -> tuple[Layers, tuple[Kind, ...] | None, list[str]]:
    """(kinds of each layer, kinds of an MTP layer or None, what was derived).

    Raises: ModelFileError where the loader would fail, or where the file's numbers cannot be.
    """
    derived = ["cache type f16: llama.cpp's default, the file does not say one"]
    try:
        every = [_layer(metadata, index) for index in range(metadata.all_layers)]
    except KvcalcError as error:
        error.file = error.file or metadata.header.file
        raise
    if metadata.architecture == "nanbeige":
        every *= max(metadata.whole("num_loops", 1), 1)  # the stack is run so often, each time with its own cache
    main = len(every) - metadata.mtp_layers
    if metadata.mtp_layers:
        derived.append(f"{metadata.mtp_layers} MTP layers: no cache outside a draft context")
    mtp = _mtp_layer(every[main:]) if main < len(every) else None
    layers = _share(metadata, every[:main])
    ignored = metadata.whole("attention.sliding_window") if metadata.arch.windows is None else 0
    if ignored:
        derived.append(f"llama.cpp ignores the file's window of {ignored}: every layer is full")
    if metadata.arch.windows is not None and _sliding(metadata):
        derived.append(f"which layers slide: rule of llama.cpp's {metadata.architecture} loader")
    return layers, mtp, derived


def _mtp_layer(layers: Layers) -> tuple[Kind, ...]:
    """One MTP layer; all of them are alike in every file seen, the widest stands for them."""
    return max(layers, key=lambda kinds: sum(part.elements_per_slot for kind in kinds for part in kind.lower()))[:1]


def _layer(metadata: Metadata, index: int) -> tuple[Kind, ...]:
    """The kinds of layer `index`, sharing not yet considered."""
    if metadata.arch.memory == "none":
        return (NoCache(),)
    if metadata.arch.memory == "recurrent":
        return (_state(metadata),)
    if metadata.architecture == "falcon-h1":
        return (_attention(metadata, index), _state(metadata))  # both in every layer (falcon-h1.cpp)
    if metadata.arch.memory == "hybrid" and _is_recurrent(metadata, index):
        extra = _ple(metadata, index)
        return (_state(metadata), *extra)
    if metadata.architecture.startswith("nemotron_h") and _feed_forward(metadata, index):
        return (NoCache(),)
    return (_attention(metadata, index),)


def _feed_forward(metadata: Metadata, index: int) -> int:
    return metadata.per_layer("feed_forward_length", 0, layers=metadata.all_layers)[index]


def _is_recurrent(metadata: Metadata, index: int) -> bool:
    name, main = metadata.architecture, metadata.all_layers - metadata.mtp_layers
    if name in _RECURRENT_BY_HEADS:
        return metadata.kv_heads[index] == 0
    if index >= main:
        return False
    if name.startswith("nemotron_h"):
        return metadata.kv_heads[index] == 0 and _feed_forward(metadata, index) == 0
    if name in _FULL_INTERVAL:
        if metadata.has("attention.recurrent_layers"):
            flags = metadata.per_layer("attention.recurrent_layers", 0, layers=metadata.all_layers)
            return flags[index] != 0
        interval = metadata.whole("full_attention_interval", _FULL_INTERVAL[name])
        if interval < 1:
            raise metadata.fault("full_attention_interval", "must be at least 1", interval)
        return (index + 1) % interval != 0
    return False


def _state(metadata: Metadata) -> Kind:
    """The one recurrent kind of the model."""
    name = metadata.architecture
    if name.startswith(("rwkv", "arwkv")):
        # token_shift_count is 1 where the channel mix has no shift (rwkv6qwen2.cpp, arwkv7.cpp)
        return Rwkv(
            kind="rwkv",
            hidden_dim=metadata.required("embedding_length"),
            head_dim=metadata.required("wkv.head_size"),
            shifts=metadata.whole("token_shift_count", 2),
        )
    if name in ("lfm2", "lfm2moe"):
        return ShortConv(
            kind="short_conv",
            dim=metadata.required("embedding_length"),
            conv_kernel=metadata.required("shortconv.l_cache"),
        )
    if name in _KDA:
        return KimiDeltaAttention(
            kind="kda",
            heads=metadata.heads[0],
            head_dim=metadata.required("kda.head_dim"),
            conv_kernel=metadata.whole("ssm.conv_kernel") or 4,  # llama-hparams.cpp n_embd_r: 3 rows where it is 0
        )
    if name == "minimax-01":
        return LightningAttention(kind="lightning", heads=metadata.heads[0], head_dim=metadata.head_dim("key_length"))
    return _delta(metadata) if name in _DELTA else _ssm(metadata)


def _delta(metadata: Metadata) -> Kind:
    """Gated DeltaNet in the words of an SSM: state_size is the key's width, inner_size all value heads."""
    heads, inner = metadata.required("ssm.time_step_rank"), metadata.required("ssm.inner_size")
    if inner % heads:
        raise metadata.fault("ssm.inner_size", f"is no multiple of the {heads} value heads", inner)
    width = metadata.required("ssm.state_size")
    return GatedDeltaNet(
        kind="gated_deltanet", key_heads=metadata.required("ssm.group_count"), value_heads=heads, key_dim=width,
        value_dim=inner // heads, conv_kernel=metadata.required("ssm.conv_kernel"),
    )  # fmt: skip


def _ssm(metadata: Metadata) -> Kind:
    conv, inner = metadata.required("ssm.conv_kernel"), metadata.required("ssm.inner_size")
    width = metadata.required("ssm.state_size")
    groups = metadata.whole("ssm.group_count") if metadata.architecture in _SSM_GROUPS else 0
    if groups == 0:
        return Mamba1(kind="mamba1", inner_dim=inner, state_dim=width, conv_kernel=conv)
    heads = metadata.required("ssm.time_step_rank")
    if inner % heads:
        raise metadata.fault("ssm.inner_size", f"is no multiple of the {heads} heads", inner)
    return Mamba2(kind="mamba2", heads=heads, head_dim=inner // heads, state_dim=width, groups=groups, conv_kernel=conv)


def _ple(metadata: Metadata, index: int) -> tuple[Kind, ...]:
    """Qwen4-exp keeps the inputs of its n-gram convolution beside one layer's state (llama-hparams.cpp)."""
    listed = metadata.array("ple.layers") if metadata.architecture == "qwen4exp" else None
    if not listed or index not in listed:
        return ()
    width = metadata.required("ple.ngram_size") * metadata.required("hyper_connection.count")
    dim = width * metadata.required("embedding_length")
    return (ShortConv(kind="short_conv", dim=dim, conv_kernel=metadata.required("ple.conv_kernel")),)


def _sliding(metadata: Metadata) -> int:
    """The window of the model, 0 where no layer slides."""
    rule, key = metadata.arch.windows, "attention.sliding_window"
    layers = metadata.all_layers - metadata.mtp_layers
    if rule is None or (rule.layers is not None and rule.layers != layers):
        return 0
    stated = metadata.whole(key)
    if rule.fixed is not None:
        # llama4.cpp, smallthinker.cpp: a window of 0 (smallthinker: or none) switches sliding off, any other is ignored
        off = stated == 0 and (metadata.has(key) or rule.optional)
        return 0 if off else rule.fixed
    if rule.optional and stated == 0:
        return 0
    if rule.default is not None and not metadata.has(key):
        return rule.default
    return metadata.required(key)


def _slides(metadata: Metadata, index: int) -> bool:
    rule = metadata.arch.windows
    if rule is None or not _sliding(metadata):
        return False
    if metadata.architecture == "deepseek4":
        return True
    if metadata.architecture == "lfm2":
        return index < metadata.all_layers - metadata.mtp_layers  # only attention layers come here
    pattern = metadata.array("attention.sliding_window_pattern")
    if pattern is not None:
        return index < len(pattern) and pattern[index] != 0
    if rule.pattern is None:
        raise metadata.fault(
            "attention.sliding_window_pattern", "is missing: this architecture needs one entry per layer"
        )
    if index >= metadata.all_layers - metadata.mtp_layers:
        return False
    period = metadata.whole("attention.sliding_window_pattern", rule.pattern)
    return rule.slides(index, period)


def _attention(metadata: Metadata, index: int) -> Kind:
    slides = _slides(metadata, index)
    window = _sliding(metadata) if slides else None
    if metadata.architecture == "deepseek4":
        return _compressed(metadata, index, window or 0)
    groups = metadata.kv_heads[index]
    if groups == 0:
        return NoCache()
    if _is_latent(metadata):
        return _latent(metadata, index, window)
    suffix = "_swa" if slides else ""
    key, value = metadata.head_dim("key_length"), metadata.head_dim("value_length")
    if suffix:
        key = metadata.whole("attention.key_length_swa", key)
        value = metadata.whole("attention.value_length_swa", value)
    if not key or not value:
        raise metadata.fault("attention.head_count", "is 0 in layer 0, which gives every layer heads of no width")
    chunked = metadata.arch.windows is not None and metadata.arch.windows.chunked
    return _heads_of(
        heads=max(metadata.heads[index], groups), groups=groups, head_dim=key,
        v_head_dim=None if value == key else value,
        window=None if chunked else window, chunk=window if chunked else None, indexer=_indexer(metadata, index),
    )  # fmt: skip


def _heads_of(*, heads: int, groups: int, **rest: object) -> HeadAttention:
    """mha, mqa or gqa, whichever the head counts say; a query head count that does not divide is not stored."""
    heads = heads if heads % groups == 0 else groups
    tag: Literal["mha", "mqa", "gqa"] = "mha" if groups == heads else "mqa" if groups == 1 else "gqa"
    return HeadAttention(
        kind=tag,
        heads=heads,
        groups=groups if tag == "gqa" else None,
        **rest,  # type: ignore[arg-type]
    )


def _is_latent(metadata: Metadata) -> bool:
    """Old DeepSeek files lack the *_mla keys: they cache a key and a value per head (llama-hparams.cpp is_mla)."""
    if metadata.arch.latent == "expanded":
        return True
    keys = ("attention.key_length_mla", "attention.value_length_mla")
    return metadata.arch.latent == "row" and all(metadata.whole(key) > 0 for key in keys)


def _latent(metadata: Metadata, index: int, window: int | None) -> Kind:
    slides = "_swa" if window is not None and metadata.has("attention.kv_lora_rank_swa") else ""
    latent = metadata.required(f"attention.kv_lora_rank{slides}")
    if metadata.arch.latent == "expanded":
        rope = metadata.required("rope.dimension_count")
        nope, value = metadata.head_dim("key_length") - rope, metadata.head_dim("value_length")
        if metadata.kv_heads[index] != metadata.heads[index]:
            raise metadata.fault("attention.head_count_kv", "must equal head_count in an expanded MLA model")
    else:
        if metadata.kv_heads[index] != 1:
            raise metadata.fault("attention.head_count_kv", "must be 1 in an MLA model", metadata.kv_heads[index])
        width = metadata.head_dim("key_length")
        rope = (metadata.whole("attention.key_length_swa", width) if slides or window else width) - latent
        nope = metadata.whole(f"attention.key_length_mla{slides}") - rope
        value = metadata.whole(f"attention.value_length_mla{slides}")
    if rope < 0:
        raise metadata.fault("attention.key_length", "is below kv_lora_rank", rope)
    return LatentAttention(
        kind="mla", heads=metadata.heads[index], latent_dim=latent, rope_dim=rope, nope_dim=max(nope, 0),
        v_head_dim=value or None, window=window, indexer=_indexer(metadata, index),
    )  # fmt: skip


def _indexer(metadata: Metadata, index: int) -> Indexer | None:
    """The indexer of layer `index`; shared where the layer takes an earlier one's selection."""
    if not metadata.arch.index:
        return None
    name, main = metadata.architecture, metadata.all_layers - metadata.mtp_layers
    width = metadata.whole("attention.indexer.key_length")
    if name == "minimax-m3":
        owns = index >= metadata.whole(
            "leading_dense_block_count"
        )  # the first layers are dense (llama-kv-cache-msa.cpp)
        return Indexer(head_dim=width) if owns else None
    if index >= main or width == 0 or (name == "hy_v4" and not metadata.whole("attention.indexer.top_k")):
        return None
    pool = metadata.whole("attention.indexer.kpool", 1) if name == "glm5-next" else 1
    return Indexer(head_dim=width, tokens_per_slot=max(pool, 1), shared=not _owns_indexer(metadata, index))


def _owns_indexer(metadata: Metadata, index: int) -> bool:
    name = metadata.architecture
    if name in ("deepseek32", "qwen4exp"):
        return True
    types = metadata.array("attention.indexer.types")
    if types is not None:
        return index < len(types) and types[index] != 0
    if name == "glm-dsa" and metadata.required("context_length") >= _GLM_52_CONTEXT:
        return index < 3 or index % 4 == 2
    return name in ("glm-dsa", "glm5-next")


def _compressed(metadata: Metadata, index: int, window: int) -> Kind:
    """deepseek4.cpp: ratio 4 is CSA, 128 is HCA, any other keeps the window only; K and V are one row."""
    ratios = metadata.array("attention.compress_ratios")
    if ratios is None or len(ratios) < metadata.all_layers:
        raise metadata.fault("attention.compress_ratios", "must have an entry for every layer")
    heads, width = metadata.heads[index], metadata.head_dim("key_length")
    if metadata.kv_heads[index] != 1:
        raise metadata.fault("attention.head_count_kv", "must be 1", metadata.kv_heads[index])
    if ratios[index] == 4:
        return CompressedAttention(
            kind="csa", heads=heads, head_dim=width, tokens_per_slot=4, window=window,
            index_dim=metadata.required("attention.indexer.key_length"),
        )  # fmt: skip
    if ratios[index] == 128:
        return CompressedAttention(kind="hca", heads=heads, head_dim=width, tokens_per_slot=128, window=window)
    return HeadAttention(kind="mqa", heads=heads, head_dim=width, window=window, tied_kv=True)


def _share(metadata: Metadata, layers: Layers) -> Layers:
    """Gemma 3n and 4: the last layers read the cache of the last layer of their sort that has one of its own."""
    name = metadata.architecture
    if name == "gemma3n":
        keep = metadata.arch.kv_layers or 0
    elif name == "gemma4":
        keep = metadata.all_layers - metadata.whole("attention.shared_kv_layers")
    else:
        return layers
    if not 2 <= keep <= metadata.all_layers and keep < len(layers):
        raise metadata.fault("attention.shared_kv_layers", f"leaves {keep} layers with a cache")
    # create_memory, `reuse`: a sliding layer reads the last but one of the layers that keep, a full one the last.
    return [
        kinds if index < keep else (SharedCache(kind="shared", of=f"#{keep - (2 if _slides(metadata, index) else 1)}"),)
        for index, kinds in enumerate(layers)
    ]
