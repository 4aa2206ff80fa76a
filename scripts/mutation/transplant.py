"""Puts one mutant into modules that are already imported, so that no mutant pays for imports or test collection.

Inside a function the mutant is a new code object for the functions that live. Outside (tables, class fields, default
arguments) the changed module runs once more beside the old one, and whatever came out otherwise is carried over.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections import defaultdict
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from mutation.sites import sites

Key = tuple[str, int]


class Living:
    """The functions of the mutated files that live in this process, by file, qualified name and first line."""

    def __init__(self, files: list[Path]) -> None:
        wanted = {str(path) for path in files}
        self.functions: dict[str, dict[Key, list[FunctionType]]] = defaultdict(lambda: defaultdict(list))
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and thing.__code__.co_filename in wanted:
                code = thing.__code__
                self.functions[code.co_filename][code.co_qualname, code.co_firstlineno].append(thing)
        self.modules = {
            module.__file__: module
            for name, module in list(sys.modules.items())
            if name.startswith("kvcalc") and getattr(module, "__file__", None) in wanted
        }


def mutated(source: str, path: Path, number: int) -> CodeType:
    """The module's code with mutant `number`."""
    tree = ast.parse(source)
    sites(tree)[number].apply()
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


def put(living: Living, path: Path, code: CodeType, *, outside: bool) -> int:
    """Replaces what lives; returns how many things changed."""
    changed = _put_code(living.functions[str(path)], code)
    module = living.modules.get(str(path))
    if outside and module is not None:
        changed += _put_names(module, code)
    return changed


def _put_code(functions: dict[Key, list[FunctionType]], code: CodeType) -> int:
    changed = 0
    pairs: dict[Key, list[CodeType]] = defaultdict(list)
    for inner in _codes(code):
        pairs[inner.co_qualname, inner.co_firstlineno].append(inner)
    for key, living in functions.items():
        for function in living:
            same = pairs[key]
            # Several lambdas on one line: the one that begins in the same column.
            column = _column(function.__code__)
            for new in [new for new in same if len(same) == 1 or _column(new) == column][:1]:
                if new != function.__code__:
                    function.__code__ = new
                    changed += 1
    return changed


def _column(code: CodeType) -> object:
    return next((place[2] for place in code.co_positions() if place[2]), None)


def _codes(code: CodeType) -> list[CodeType]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return inner + [deeper for constant in inner for deeper in _codes(constant)]


def _put_names(module: ModuleType, code: CodeType) -> int:
    again: dict[str, Any] = {
        "__name__": module.__name__,
        "__file__": module.__file__,
        "__package__": module.__package__,
        "__path__": getattr(module, "__path__", None),
        "__spec__": module.__spec__,
        "__builtins__": __builtins__,
    }
    exec(code, again)  # noqa: S102  # our own module, changed by one node
    old = vars(module)
    return sum(
        _carry(old[name], new, _Owner(module, name, again))
        for name, new in again.items()
        if name in old and not name.startswith("__") and not isinstance(new, ModuleType)
    )


class _Owner:
    """Where a value is to be replaced: a class attribute, or a name of the module wherever it was imported."""

    def __init__(self, holder: ModuleType | type, name: str, again: dict[str, Any]) -> None:
        self.holder, self.name, self.again = holder, name, again

    def replace(self, old: object, new: object) -> None:
        if isinstance(self.holder, type):
            type.__setattr__(self.holder, self.name, new)
            return
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            if names.get(self.name) is old and type(names) is dict:
                names[self.name] = new


def _carry(old: Any, new: Any, owner: _Owner) -> int:
    module = owner.again["__name__"]
    if isinstance(new, FunctionType) and isinstance(old, FunctionType):
        return _carry_defaults(old, new, owner)
    if isinstance(new, staticmethod | classmethod):
        return _carry(old.__func__, new.__func__, owner)
    if isinstance(new, property):
        return _carry(old.fget, new.fget, owner)
    if isinstance(new, type):
        if new.__module__ != module or old is new:
            return 0
        inner = [name for name in vars(new) if name in vars(old) and name not in _OF_CLASSES]
        return sum(_carry(vars(old)[name], vars(new)[name], _Owner(old, name, owner.again)) for name in inner)
    if type(new).__name__ in ("member_descriptor", "getset_descriptor", "_tuplegetter", "wrapper_descriptor"):
        return 0
    if _plain(old) == _plain(new):
        return 0
    translated = _translate(new, owner)
    if isinstance(old, dict) and isinstance(translated, dict):
        old.clear()
        old.update(translated)
    elif isinstance(old, list):
        old[:] = translated
    elif is_dataclass(old) and type(old) is type(translated):
        for field in fields(old):
            object.__setattr__(old, field.name, getattr(translated, field.name))
    else:
        owner.replace(old, translated)
    return 1


_OF_CLASSES = ("__module__", "__doc__", "__dict__", "__weakref__", "__slots__", "__match_args__", "__qualname__",
               "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__orig_bases__", "__parameters__",
               "_fields")  # fmt: skip


def _carry_defaults(old: FunctionType, new: FunctionType, owner: _Owner) -> int:
    changed = 0
    for name in ("__defaults__", "__kwdefaults__"):
        if _plain(getattr(old, name)) != _plain(getattr(new, name)):
            setattr(old, name, _translate(getattr(new, name), owner))
            changed += 1
    return changed


def _plain(value: object) -> object:
    """Equal for values that say the same, though their classes and functions were made twice."""
    if isinstance(value, dict):
        return [(_plain(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__qualname__, [_plain(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple | list):
        return type(value).__qualname__, [_plain(item) for item in value]
    if isinstance(value, FunctionType | type):
        return value.__qualname__
    if type(value).__repr__ is object.__repr__:
        return type(value).__qualname__, [(name, _plain(item)) for name, item in getattr(value, "__dict__", {}).items()]
    return type(value).__qualname__, repr(value)


def _translate(value: Any, owner: _Owner) -> Any:
    """The new value made of the old classes and functions."""
    old_names, again = vars(sys.modules[owner.again["__name__"]]), owner.again
    if isinstance(value, FunctionType | type) and value.__module__ == again["__name__"]:
        return old_names.get(value.__qualname__, value)
    if isinstance(value, dict):
        return {_translate(key, owner): _translate(item, owner) for key, item in value.items()}
    if isinstance(value, set | frozenset | list):
        return type(value)(_translate(item, owner) for item in value)
    cls = (
        old_names.get(type(value).__qualname__, type(value))
        if type(value).__module__ == again["__name__"]
        else type(value)
    )
    if isinstance(value, tuple):
        items = [_translate(item, owner) for item in value]
        return cls._make(items) if hasattr(cls, "_make") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        made = object.__new__(cls)
        for field in fields(value):
            object.__setattr__(made, field.name, _translate(getattr(value, field.name), owner))
        return made
    if cls is not type(value) and hasattr(value, "__dict__"):
        made = object.__new__(cls)
        made.__dict__.update(value.__dict__)
        return made
    return value
