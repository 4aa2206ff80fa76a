"""Checks that every kind makes of its own fields, so that a kind cannot exist with impossible numbers."""

from __future__ import annotations

from kvcalc.errors import ModelFileError, short

#: No published model comes near; a larger number is a typing mistake (or an attack on memory).
MAX_DIM = 2**20
MAX_WINDOW = 2**40


def need_int(field: str, value: object, *, least: int = 1, most: int = MAX_DIM) -> int:
    """`value` as an int in [least, most].

    Raises: ModelFileError naming the field, the value and the range.
    """
    if type(value) is not int:  # bool is an int to isinstance, and no number here
        raise ModelFileError(
            f"{field} must be a whole number, not {short(value)}",
            fix=f"write {field} as an integer from {least} to {most:,}",
            field=field,
            value=value,
        )
    if not least <= value <= most:
        raise ModelFileError(
            f"{field} is {short(value)}, outside {least} to {most:,}",
            fix="check the value against the model's config.json",
            field=field,
            value=value,
        )
    return value


def need_optional_int(field: str, value: object, *, least: int = 1, most: int = MAX_DIM) -> int | None:
    """Like `need_int`, with None for an absent field."""
    return None if value is None else need_int(field, value, least=least, most=most)


def need_divides(field: str, value: int, by: str, divisor: int) -> None:
    """`divisor` must divide `value` evenly."""
    if value % divisor:
        raise ModelFileError(
            f"{field} ({value}) is no multiple of {by} ({divisor})",
            fix=f"{by} must divide {field}: check both against the config",
            field=by,
            value=divisor,
        )
