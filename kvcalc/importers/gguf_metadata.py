"""The metadata of one GGUF architecture, with llama.cpp's own readings: absent keys, scalars, per-layer arrays."""

from __future__ import annotations

from functools import cached_property

from kvcalc.engines.llamacpp.arch import ARCHS, Arch
from kvcalc.errors import ModelFileError, short
from kvcalc.importers.gguf_file import Header, Skipped, Value

#: src/llama-hparams.h LLAMA_MAX_LAYERS
MAX_LAYERS = 512
_MAX_INT = 2**31 - 1


class Metadata:
    """A header read as `architecture`; keys are given without the architecture's prefix."""

    def __init__(self, header: Header, architecture: str) -> None:
        self.header = header
        self.architecture = architecture
        self._arrays: dict[str, tuple[int, ...] | None] = {}

    @property
    def arch(self) -> Arch:
        return ARCHS[self.architecture]

    def _found(self, key: str) -> Value | None:
        return self.header.metadata.get(f"{self.architecture}.{key}")

    def fault(self, key: str, what: str, value: object = None) -> ModelFileError:
        return ModelFileError(
            f"{self.architecture}.{key} {what}",
            fix="llama.cpp would not load this file either: convert the model again",
            file=self.header.file,
            field=f"{self.architecture}.{key}",
            value=value,
        )

    def has(self, key: str) -> bool:
        return self._found(key) is not None

    def whole(self, key: str, default: int = 0) -> int:
        """A whole number, `default` where the key is absent.

        Raises: ModelFileError for any other type, or a size no model has.
        """
        value = self._found(key)
        if value is None:
            return default
        if type(value) is not int:
            raise self.fault(key, f"must be a whole number, not {short(value)}", value)
        if not 0 <= value <= _MAX_INT:
            raise self.fault(key, f"is {value}, outside 0 to {_MAX_INT:,}", value)
        return value

    def required(self, key: str) -> int:
        """A positive whole number that the loader insists on."""
        if not self.has(key):
            raise self.fault(key, "is missing")
        value = self.whole(key)
        if value < 1:
            raise self.fault(key, f"must be at least 1, not {value}", value)
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._found(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.fault(key, f"must be true or false, not {short(value)}", value)
        return value

    def array(self, key: str) -> tuple[int, ...] | None:
        """An array of whole numbers or switches; None where the key is absent or holds a scalar."""
        if key not in self._arrays:
            self._arrays[key] = self._read_array(key)
        return self._arrays[key]

    def _read_array(self, key: str) -> tuple[int, ...] | None:
        value = self._found(key)
        if isinstance(value, Skipped):
            raise self.fault(key, f"has {value.count:,} elements", value.count)
        if not isinstance(value, tuple):
            return None
        if any(isinstance(item, float) or not 0 <= item <= _MAX_INT for item in value):
            raise self.fault(key, "must hold whole numbers", value)
        return tuple(int(item) for item in value)

    def per_layer(self, key: str, default: int, *, layers: int) -> tuple[int, ...]:
        """One number per layer: an array of exactly that length, or a scalar for all of them."""
        found = self.array(key)
        if found is None:
            return (self.whole(key, default),) * layers
        if len(found) != layers:
            raise self.fault(key, f"has {len(found)} elements for {layers} layers", len(found))
        return found

    @cached_property
    def all_layers(self) -> int:
        """Layers of the file, MTP layers among them."""
        count = self.required("block_count")
        loops = self.whole("num_loops", 1) if self.architecture == "nanbeige" else 1
        if count * max(loops, 1) > MAX_LAYERS:
            raise self.fault("block_count", f"is {count}, above llama.cpp's {MAX_LAYERS}", count)
        return count

    @cached_property
    def mtp_layers(self) -> int:
        """Multi-token-prediction layers at the end of the file; no cache of the main context unless said otherwise."""
        count = self.whole("nextn_predict_layers")
        if count > self.all_layers:
            raise self.fault("nextn_predict_layers", f"is {count} of {self.all_layers} layers", count)
        if self.architecture == "deepseek4" and not self.header.tensors.has_mtp:
            return 0  # without their weights the layers count as ordinary ones (src/models/deepseek4.cpp)
        return 0 if count == self.all_layers else count

    @cached_property
    def heads(self) -> tuple[int, ...]:
        return self.per_layer("attention.head_count", 0, layers=self.all_layers)

    @cached_property
    def kv_heads(self) -> tuple[int, ...]:
        """KV heads per layer; absent: as many as query heads."""
        if not self.has("attention.head_count_kv"):
            return self.heads
        return self.per_layer("attention.head_count_kv", 0, layers=self.all_layers)

    def head_dim(self, key: str) -> int:
        """attention.key_length or value_length; absent: embedding_length / heads of layer 0; 0 where that has none."""
        first = self.heads[0]
        reads_anyway = self.architecture == "plamo2"  # its loader reads both keys once more
        if first == 0:
            return self.whole(f"attention.{key}") if reads_anyway else 0
        return self.whole(f"attention.{key}", self.required("embedding_length") // first)

    def vocabulary(self) -> int:
        stated = self.whole("vocab_size")
        tokens = self.header.metadata.get("tokenizer.ggml.tokens")
        return stated or (tokens.count if isinstance(tokens, Skipped) else 0)

    def facts(self) -> dict[str, int | str | bool]:
        """What the llama.cpp engine must know beside the layers."""
        facts: dict[str, int | str | bool] = {"gguf_architecture": self.architecture}
        # These loaders switch causal attention off themselves (gemma-embedding.cpp, dream.cpp, llada.cpp, rnd1.cpp).
        never = self.architecture in ("gemma-embedding", "dream", "llada", "llada-moe", "rnd1")
        if never or not self.flag("attention.causal", default=True):
            facts["is_causal"] = False
        if self.arch.latent == "row" and self.architecture not in ("kimi-k3", "glm5-next"):
            # The type checks look at value_length, which MLA stores nothing of; these two loaders overwrite it.
            facts["gguf_value_length"] = self.head_dim("value_length")
        return facts
