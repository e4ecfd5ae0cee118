"""CLEVR's functional programs run on scene graphs: the answer, and the objects that it hangs on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "shape": ("cube", "sphere", "cylinder"),
    "size": ("large", "small"),
    "material": ("rubber", "metal"),
}
"""What objects differ in, and the values of each."""
COUNTS = tuple(str(n) for n in range(11))
"""How many objects a scene has at most."""

Objects = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """What a program gives on a scene.

    Attributes:
        answer: As in the dataset; ``None`` if the question makes no sense there.
        evidence: Objects that it hangs on: every one that the program singles out, and those that
            it counts or says to exist.
        counted: Those of them that are counted or said to exist.
    """

    answer: str | None
    evidence: tuple[int, ...]
    counted: tuple[int, ...]


def candidates(program: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The possible answers of a program's last function."""
    last = _function(program[-1])
    if last == "count":
        return COUNTS
    if last.startswith("query_"):
        return ATTRIBUTES[last.removeprefix("query_")]
    return ("yes", "no")


def run(
    program: Sequence[Mapping[str, Any]],
    objects: Objects,
    relationships: Mapping[str, Sequence[Sequence[int]]],
    without: frozenset[int] = frozenset(),
) -> Run:
    """Run a program on a scene, or on what is left of it.

    Args:
        program: Functions with ``function`` (in generated data ``type``), ``inputs`` and
            ``value_inputs``.
        objects: Of the scene.
        relationships: Per relation and object the objects that stand so to it.
        without: Objects that are not there.

    Raises:
        KeyError: If a function or a value is unknown.
        IndexError: If an input does not exist.
    """
    values: list[Any] = []
    evidence: set[int] = set()
    counted: set[int] = set()
    for node in program:
        name = _function(node)
        inputs = [values[at] for at in node["inputs"]]
        given = node.get("value_inputs", node.get("side_inputs", []))
        if None in inputs:
            values.append(None)
            continue
        if name == "scene":
            found: Any = {at for at in range(len(objects)) if at not in without}
        elif name == "unique":
            found = next(iter(inputs[0])) if len(inputs[0]) == 1 else None
            evidence |= inputs[0] if found is not None else set()
        elif name.startswith("filter_"):
            key = name.removeprefix("filter_")
            found = {at for at in inputs[0] if objects[at][key] == given[0]}
        elif name.startswith("same_"):
            key, own = name.removeprefix("same_"), inputs[0]
            found = {
                at
                for at in range(len(objects))
                if at not in without and at != own and objects[at][key] == objects[own][key]
            }
        elif name == "relate":
            found = {at for at in relationships[given[0]][inputs[0]] if at not in without}
        elif name in _PLAIN:
            found = _PLAIN[name](*inputs)
            if name in ("count", "exist"):
                evidence |= inputs[0]
                counted |= inputs[0]
        elif name.startswith("query_"):
            found = objects[inputs[0]][name.removeprefix("query_")]
        elif name.startswith("equal_"):
            found = inputs[0] == inputs[1]
        else:
            raise KeyError(name)
        values.append(found)
    last = values[-1]
    answer = _YES_NO[last] if isinstance(last, bool) else None if last is None else str(last)
    return Run(answer, tuple(sorted(evidence)), tuple(sorted(counted)))


_PLAIN: Mapping[str, Callable[..., Any]] = {
    "union": lambda a, b: a | b,
    "intersect": lambda a, b: a & b,
    "count": len,
    "exist": bool,
    "less_than": lambda a, b: a < b,
    "greater_than": lambda a, b: a > b,
}
_YES_NO = {True: "yes", False: "no"}


def _function(node: Mapping[str, Any]) -> str:
    return str(node.get("function") or node["type"])
