"""Frozen records and named tuples that cost microseconds to define.

Every answer pays for the classes it defines: a frozen `dataclasses.dataclass` with slots takes 0.4 ms and its module
10 ms more (it imports inspect), `typing.NamedTuple` 0.09 ms and its module 5 ms; these take 0.01 and 0.04. What is
written is the same: to a type checker `Record` is a keyword-only frozen dataclass and the other names are typing's own.
Modules on the way to an answer take these names from here; anything else may use the standard ones.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing typing is what is to be avoided
if TYPE_CHECKING:
    from dataclasses import Field
    from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, dataclass_transform
else:
    from collections import namedtuple

    def dataclass_transform(**_: object) -> object:
        return lambda cls: cls

    class _Literal:
        def __getitem__(self, item: object) -> tuple[object, ...]:
            return item if isinstance(item, tuple) else (item,)

    class _TupleType(type):
        """Turns the body of a class into a `collections.namedtuple` with its methods."""

        def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, object]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, space)
            hints = space["__annotations__"]
            defaults = [space.pop(field) for field in hints if field in space]
            made = namedtuple(name, hints, defaults=defaults, module=space["__module__"])  # noqa: PYI024 - see above
            for key, value in space.items():
                setattr(made, key, value)
            made.__new__.__annotations__ = hints
            return made

    class NamedTuple(metaclass=_TupleType):
        """`typing.NamedTuple`, without typing."""

    #: An alias of literals is the tuple of them at run time.
    Literal = _Literal()
    #: Nothing asks at run time whether a protocol is fulfilled.
    Protocol = object
    #: For aliases that exist at run time.
    Any = object

__all__ = ["Any", "Literal", "NamedTuple", "Protocol", "Record"]


class _Fields:
    """`__dataclass_fields__`, made when somebody asks (pydantic, `dataclasses.fields` and `replace`)."""

    def __get__(self, instance: object, cls: type[Record]) -> dict[str, Field[Any]]:
        import typing
        from dataclasses import make_dataclass
        from sys import modules

        hints = typing.get_type_hints(cls, {**vars(modules[cls.__module__]), **vars(typing)})
        rows = [(name, hints[name], _field(cls.__defaults__, name)) for name in cls.__slots__]
        found: dict[str, Field[Any]] = getattr(make_dataclass(cls.__name__, rows, kw_only=True), "__dataclass_fields__")  # noqa: B009
        type.__setattr__(cls, "__dataclass_fields__", found)
        return found


def _field(defaults: dict[str, Any], name: str) -> Any:
    """A field with its default; `dataclasses` takes none that it cannot hash (a read-only mapping), but any factory."""
    from dataclasses import field

    if name not in defaults:
        return field()
    value = defaults[name]
    return field(default=value) if type(value).__hash__ is not None else field(default_factory=lambda: value)


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _RecordType(type):
    """Gives a record its slots: one per annotation."""

    def __new__(cls, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> _RecordType:
        names = tuple(space.get("__annotations__", ())) if bases else ()
        space["__defaults__"] = {field: space.pop(field) for field in names if field in space}
        space["__slots__"] = names
        space["__dataclass_fields__"] = _Fields()
        return super().__new__(cls, name, bases, space)


class Record(metaclass=_RecordType):
    """A frozen value with named fields, compared and hashed by them. No inheritance beyond this class.

    `__post_init__` checks the fields. A default is shared by all instances: it must be immutable.

    >>> class Point(Record):
    ...     x: int
    ...     y: int = 0
    >>> Point(x=1), Point(x=1) == Point(x=1, y=0)
    (Point(x=1, y=0), True)
    """

    #: An unknown key is an error; pydantic below 2.14 does not take that over from the document around a record.
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic's name, and a dict is what it reads

    if TYPE_CHECKING:
        __slots__: ClassVar[tuple[str, ...]]
        __defaults__: ClassVar[dict[str, Any]]
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init__(self, **given: Any) -> None:
        """Raises: TypeError for a missing or an unknown field, as a function does."""
        cls = type(self)
        values = {**cls.__defaults__, **given}
        for name in cls.__slots__:
            if name not in values:
                raise TypeError(f"{cls.__name__} needs {name}")
            object.__setattr__(self, name, values[name])
        if len(values) != len(cls.__slots__):
            raise TypeError(f"{cls.__name__} has no {next(name for name in given if name not in cls.__slots__)}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Nothing to check."""

    def _replace(self, **changes: Any) -> Self:
        """The same with other values of some fields, checked again; the word of named tuples."""
        return type(self)(**{**dict(zip(self.__slots__, self._values(), strict=True)), **changes})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be deleted")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Record) and type(other) is type(self) and self._values() == other._values()
        )

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__qualname__}({shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made from the fields."""
        return _rebuilt, (type(self), self._values())


def _rebuilt(cls: type[Record], values: tuple[Any, ...]) -> Record:
    return cls(**dict(zip(cls.__slots__, values, strict=True)))
