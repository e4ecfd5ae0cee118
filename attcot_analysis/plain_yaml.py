"""YAML files of anybody: values only, of bounded size, and numbers as everybody writes them."""

import re
from pathlib import Path
from typing import Any

import yaml

_MOST = 2**20


class _Plain(yaml.SafeLoader):
    """Without aliases, of which a few lines make gigabytes; ``1e-4`` is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse an alias where it is read."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(
                f"line {event.start_mark.line + 1} has the alias *{event.anchor}, write what it "
                "stands for"
            )
        return super().compose_node(parent, index)


_Plain.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_plain_yaml(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no UTF-8, nested too deeply, or larger than a megabyte.
        yaml.YAMLError: If it is no YAML, or has aliases.
    """
    with path.open("rb") as file:  # Its size says nothing of a device.
        content = file.read(_MOST + 1)
    if len(content) > _MOST:
        raise ValueError(f"it is larger than {_MOST} bytes")
    try:
        return yaml.load(content.decode("utf-8"), Loader=_Plain)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
