"""Settings that say in a field's type what fits it, and in one sentence what does not.

The sentence is one of the project's errors also where other code, such as pydantic's, builds the
settings from a file.
"""

import math
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from attcot_analysis.errors import TrainingError


class Limits(NamedTuple):
    """What fits a field.

    Attributes:
        fits: Whether a value does.
        remedy: What to give instead of one that does not.
    """

    fits: Callable[[Any], bool]
    remedy: str


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


Count = Annotated[int, Limits(lambda v: _whole(v, 1), "give a whole number from 1")]
Several = Annotated[int, Limits(lambda v: _whole(v, 2), "give a whole number from 2")]
Index = Annotated[int, Limits(lambda v: _whole(v, 0), "give a whole number from 0")]
Positive = Annotated[float, Limits(lambda v: _number(v) and v > 0, "give a number above 0")]
Weight = Annotated[float, Limits(lambda v: _number(v) and v >= 0, "a weight is a number from 0 on")]
Amount = Annotated[float, Limits(lambda v: _number(v) and v >= 0, "give a number from 0")]
Share = Annotated[float, Limits(lambda v: _number(v) and 0 <= v <= 1, "give a share from 0 to 1")]
SomeShare = Annotated[
    float, Limits(lambda v: _number(v) and 0 < v <= 1, "give a share above 0, up to 1")
]


def check_settings(settings: Any) -> None:
    """Check the fields of a dataclass whose type says what fits; for its ``__post_init__``.

    Types are checked that are `Limits` in an ``Annotated``, ``Literal`` or ``bool``, or one of
    them beside ``None``.

    Raises:
        TrainingError: Names the first field that does not fit, with its value and the remedy.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        remedy = _remedy(hint, value)
        if remedy is not None:
            raise TrainingError(f"{name} is {value!r}; {remedy}.")


def _remedy(hint: Any, value: Any) -> str | None:
    """What to give instead of a value that does not fit a type."""
    if NoneType in get_args(hint):
        others = [one for one in get_args(hint) if one is not NoneType]
        return None if value is None or len(others) > 1 else _remedy(others[0], value)
    if hint is bool:
        return None if isinstance(value, bool) else "give true or false"
    if get_origin(hint) is Literal:
        *rest, last = map(str, get_args(hint))
        return None if value in get_args(hint) else f"choose {', '.join(rest)} or {last}"
    limits = next((one for one in get_args(hint)[1:] if isinstance(one, Limits)), None)
    return None if limits is None or limits.fits(value) else limits.remedy
