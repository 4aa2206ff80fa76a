"""Records and named tuples without dataclasses and typing behave as those do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Annotated, Any

import pytest

from kvcalc.core.light import NamedTuple, Record
from kvcalc.core.model import Model, Source
from kvcalc.kinds import any_kind
from kvcalc.kinds.heads import HeadAttention

GQA: dict[str, Any] = {"kind": "gqa", "heads": 32, "groups": 8, "head_dim": 128}


class Twin(Record):
    """The same fields as `HeadAttention`, in another class."""

    kind: str
    heads: int
    groups: int
    head_dim: int


class Metres(Record):
    """One field."""

    amount: int


class Feet(Record):
    """The same field."""

    amount: int


class Pair(NamedTuple):
    """Two numbers."""

    first: int
    second: int = 2

    @property
    def both(self) -> int:
        """Their sum."""
        return self.first + self.second


def test_values_are_compared_and_hashed_by_class_and_fields() -> None:
    """Equal fields of one class are equal; of two classes never."""
    one, same = HeadAttention(**GQA), HeadAttention(**GQA)
    assert one == same
    assert hash(one) == hash(same)
    assert one != HeadAttention(**{**GQA, "groups": 4})
    assert Twin(**GQA) != one
    assert one != GQA
    assert len({one, same, Twin(**GQA)}) == 2
    assert Metres(amount=1) == Metres(amount=1) != Feet(amount=1)
    assert hash(Metres(amount=1)) != hash(Feet(amount=1))


@pytest.mark.parametrize(
    ("given", "says"), [({"repo": "a", "colour": 1}, "has no colour"), ({"x": 1, "y": 2, "z": 3}, "has no x")]
)
def test_an_unknown_field_is_refused(given: dict[str, Any], says: str) -> None:
    """As a function refuses an unknown argument."""
    with pytest.raises(TypeError, match=says):
        Source(**given)


def test_a_missing_field_is_refused() -> None:
    """As a function refuses a missing argument."""
    with pytest.raises(TypeError, match="HeadAttention needs heads"):
        HeadAttention(kind="gqa", head_dim=128)  # type: ignore[call-arg]


def test_frozen() -> None:
    """No field can be set, none deleted, none added."""
    source = Source(repo="a")
    for name in ("repo", "other"):
        with pytest.raises(AttributeError, match=f"Source is frozen: {name}"):
            setattr(source, name, "b")
    with pytest.raises(AttributeError, match="Source is frozen: repo"):
        del source.repo
    assert source == Source(repo="a")
    assert not hasattr(source, "__dict__")


def test_repr_is_the_call_that_makes_it() -> None:
    """Every field by name, in order."""
    assert repr(Source(repo="a", date="b")) == (
        "Source(repo='a', revision=None, file=None, url=None, date='b', via=None, note=None)"
    )


def test_copies_and_pickles_are_equal() -> None:
    """A record travels between processes."""
    kind = HeadAttention(**GQA)
    assert copy.copy(kind) == copy.deepcopy(kind) == pickle.loads(pickle.dumps(kind)) == kind


def test_the_standard_library_takes_it_for_a_dataclass() -> None:
    """`fields`, `replace` and what builds on them (pydantic) work, with the resolved types and the defaults."""
    kind = HeadAttention(**GQA)
    assert dataclasses.is_dataclass(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    assert list(fields) == list(HeadAttention.__slots__)
    assert fields["heads"].type is int
    assert fields["heads"].default is dataclasses.MISSING
    assert fields["sinks"].default == 0
    assert fields["groups"].type == int | None
    assert dataclasses.replace(kind, groups=4) == kind._replace(groups=4) != kind
    with pytest.raises(ValueError, match="heads is 0"):
        kind._replace(heads=0)
    model = Model(name="m", layers=(("a",),), blocks={"a": kind}, dtype="bfloat16")
    assert dataclasses.replace(model, name="n").facts == {}


def test_checks_run_when_pydantic_makes_it() -> None:
    """The discriminated union builds the same values, through the same checks."""
    from pydantic import Field, TypeAdapter, ValidationError

    union: Any = Annotated[any_kind(), Field(discriminator="kind")]
    adapter: TypeAdapter[Any] = TypeAdapter(union)
    assert adapter.validate_python(GQA) == HeadAttention(**GQA)
    with pytest.raises(ValidationError, match="heads is 0"):
        adapter.validate_python({**GQA, "heads": 0})


def test_named_tuples() -> None:
    """Fields, defaults, methods, documentation and module as with typing's."""
    pair = Pair(1)
    assert pair == (1, 2)
    assert pair.both == 3
    assert pair._replace(second=5) == Pair(1, 5)
    assert pair._asdict() == {"first": 1, "second": 2}
    assert repr(pair) == "Pair(first=1, second=2)"
    assert (Pair.__doc__, Pair.__module__) == ("Two numbers.", __name__)
    assert pickle.loads(pickle.dumps(pair)) == pair
    with pytest.raises(TypeError, match="missing 1 required"):
        Pair()  # type: ignore[call-arg]
