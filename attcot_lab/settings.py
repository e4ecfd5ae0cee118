"""Names with values from YAML files: read, and unknown names named."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from attcot_analysis.errors import TrainingError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The names and values in a YAML file.

    Raises:
        TrainingError: If it is missing, no YAML, or holds something else.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path} is no YAML ({reason}); correct it.") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise TrainingError(f"{path} must hold names with values, as `title: CoT-SFT`.")
    return found


def check_fields(where: str, given: Any, known: Collection[str]) -> None:
    """See that what a file gives are names with values, and that all names are known ones.

    Args:
        where: What the names are of, as the sentence begins.
        given: What the file gives.
        known: The names there are.

    Raises:
        TrainingError: If it is something else, or a name is unknown.
    """
    check_mapping(where, given)
    unknown = [key for key in given if key not in known]
    if unknown:
        raise TrainingError(
            f"{where} has no field {shown(unknown)}; it has {', '.join(sorted(known))}."
        )


def check_mapping(where: str, given: Any) -> None:
    """See that what a file gives are names with values.

    Raises:
        TrainingError: If it is something else.
    """
    if not isinstance(given, Mapping):
        raise TrainingError(f"{where} is {given!r}; give names with values.")


def shown(names: Iterable[object]) -> str:
    """Names from a file, as they may stand in a sentence."""
    plain = [one if isinstance(one, str) and one.isprintable() else repr(one) for one in names]
    return ", ".join(sorted(plain))
