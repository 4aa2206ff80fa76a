"""Typed reading of one config.json section: every value is checked, and what was absent is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kvcalc.core.light import NamedTuple
from kvcalc.errors import ModelFileError, did_you_mean, short

MAX_LAYERS = 10_000
MAX_DIM = 2**20
MAX_TOKENS = 2**40
MAX_ITEMS = 20_000

#: Numbers that an absent key may mean even at the top level: keys younger than the first checkpoints of their
#: family, or left out where they say what everybody has. Others are refused: transformers always writes them there.
_ASSUMED_AT_TOP = frozenset(
    {
        "first_k_dense_replace", "global_attn_every_n_layers", "head_dim", "no_rope_layer_interval",
        "num_kv_shared_layers", "prefix_dense_sliding_window_pattern", "sliding_window_pattern",
    }
)  # fmt: skip


class Notes:
    """What the importer derived, and what the user should know. Ordered, without repeats."""

    def __init__(self) -> None:
        self.derived: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        self.facts: dict[str, int | float | str | bool] = {}
        self.exact = True

    def derive(self, text: str) -> None:
        self.derived.setdefault(text)

    def warn(self, text: str, *, exact: bool = True) -> None:
        self.warnings.setdefault(text)
        self.exact = self.exact and exact


class Keys(NamedTuple):
    """One section of a config.json (`path` names it), with the defaults its model_type gives to absent keys.

    defaults: class defaults of transformers for this model_type. A nested section is saved as the difference
    to them (PreTrainedConfig.to_diff_dict), so an absent key there means the default; at the top level the
    dimensions that decide the cache are refused when absent.
    """

    values: Mapping[str, object]
    notes: Notes
    path: str = ""
    file: str | None = None
    defaults: Mapping[str, int | float | bool | str] = MappingProxyType({})

    def where(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def error(self, name: str, what: str, *, fix: str, value: object = None) -> ModelFileError:
        """A refusal that names file, key and value."""
        return ModelFileError(what, fix=fix, file=self.file, field=self.where(name), value=value)

    def has(self, name: str) -> bool:
        """Whether the config itself says something other than null."""
        return self.values.get(name) is not None

    def raw(self, name: str) -> object:
        """The value, or what an absent key means; None when that is nothing."""
        if name in self.values:
            return self.values[name]
        value = self.defaults.get(name)
        if value is None or not (self.path or name in _ASSUMED_AT_TOP or type(value) is bool):
            return None
        if type(value) is not bool:
            self.notes.derive(f"{self.where(name)} = {value}: absent, the default of its class in transformers 5.23")
        return value

    def _first(self, names: Sequence[str]) -> tuple[str, object]:
        """The one value that any of the spellings has.

        Raises: ModelFileError when two spellings disagree.
        """
        present = [(name, self.values[name]) for name in names if self.has(name)]
        if not present:
            return names[0], next((value for name in names if (value := self.raw(name)) is not None), None)
        for name, value in present[1:]:
            if value != present[0][1]:
                raise self.error(
                    name,
                    f"{present[0][0]} is {short(present[0][1])} but {name} is {short(value)}",
                    fix="both name the same thing: keep the right one",
                    value=value,
                )
        return present[0]

    def maybe(self, *names: str, least: int = 1, most: int = MAX_DIM) -> int | None:
        """A whole number under any of its spellings, None when absent or null.

        Raises: ModelFileError for any other type or range.
        """
        name, value = self._first(names)
        if value is None:
            return None
        if type(value) is not int:  # a bool is an int to isinstance, and no number here
            raise self.error(
                name, f"{name} must be a whole number, not {short(value)}", fix="check the config.json", value=value
            )
        if not least <= value <= most:
            raise self.error(
                name, f"{name} is {short(value)}, outside {least} to {most:,}", fix="check the config.json", value=value
            )
        return value

    def whole(self, *names: str, least: int = 1, most: int = MAX_DIM) -> int:
        """Like `maybe`, but absent is refused."""
        value = self.maybe(*names, least=least, most=most)
        if value is None:
            near = did_you_mean(names[0], [key for key in self.values if isinstance(key, str) and key not in names])
            spellings = f"add {self.where(names[0])}" + (f" (or {', '.join(names[1:])})" if len(names) > 1 else "")
            raise self.error(names[0], f"{names[0]} is missing", fix=near or spellings)
        return value

    def window(self, *names: str) -> int | None:
        return self.maybe(*names, most=MAX_TOKENS)

    def flag(self, name: str, default: bool = False) -> bool:
        """A switch; null and absent mean `default`."""
        value = self.raw(name)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.error(
                name, f"{name} must be true or false, not {short(value)}", fix="check the config.json", value=value
            )
        return value

    def text(self, name: str) -> str | None:
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > MAX_ITEMS:
            wrong = "is too long:" if isinstance(value, str) else "must be text, not"
            raise self.error(name, f"{name} {wrong} {short(value)}", fix="check the config.json", value=value)
        return value

    def items(self, name: str) -> list[object] | None:
        """A list of at most MAX_ITEMS entries."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
            raise self.error(
                name, f"{name} must be a list, not {short(value)}", fix="check the config.json", value=value
            )
        return list(value)

    def wholes(self, name: str, *, least: int = 0, most: int = MAX_DIM) -> list[int] | None:
        """A list of whole numbers."""
        values = self.items(name)
        if values is None:
            return None
        found: list[int] = []
        for value in values:
            if type(value) is not int or not least <= value <= most:
                raise self.error(
                    name,
                    f"{name} holds {short(value)}, no whole number from {least}",
                    fix="check the config.json",
                    value=value,
                )
            found.append(value)
        return found

    def texts(self, name: str) -> list[str] | None:
        values = self.items(name)
        if values is None:
            return None
        found: list[str] = []
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(
                    name, f"{name}[{index}] must be text, not {short(value)}", fix="check the config.json", value=value
                )
            found.append(value)
        return found

    def section(self, name: str, defaults: Mapping[str, int | float | bool | str] | None = None) -> Keys | None:
        """A nested object, None when absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(
                name, f"{name} must be an object, not {short(value)}", fix="check the config.json", value=value
            )
        return Keys(value, self.notes, self.where(name), self.file, defaults or {})

    def overlaid(self, values: Mapping[str, object]) -> Keys:
        """The same section with some keys replaced."""
        return Keys({**self.values, **values}, self.notes, self.path, self.file, self.defaults)

    def overrides(self) -> dict[int, Mapping[str, object]]:
        """`per_layer_config` of transformers 5: layer number -> the keys that differ there."""
        value = self.values.get("per_layer_config")
        if value is None:
            return {}
        if not isinstance(value, Mapping) or len(value) > MAX_LAYERS:
            raise self.error(
                "per_layer_config", "per_layer_config must be an object", fix="check the config.json", value=value
            )
        found: dict[int, Mapping[str, object]] = {}
        for key, item in value.items():
            number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 6 else key
            if type(number) is not int or not isinstance(item, Mapping):
                raise self.error(
                    "per_layer_config",
                    f"per_layer_config must map layer numbers to objects, not {short(key)}: {short(item)}",
                    fix="check the config.json",
                    value=key,
                )
            found[number] = item
        return found

    def layers(self, *names: str) -> int:
        """The number of layers."""
        return self.whole(*(names or ("num_hidden_layers", "n_layer", "n_layers", "num_layers")), most=MAX_LAYERS)
