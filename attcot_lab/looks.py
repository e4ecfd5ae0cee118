"""How the laboratory's arms are written and drawn, as their files in ``configs/arms`` say."""

from collections.abc import Iterator

import yaml

from attcot_analysis.errors import RunError
from attcot_analysis.shipped import config_file
from attcot_analysis.show.arms import ArmStyle, read_style


def arm_styles() -> Iterator[ArmStyle]:
    """The style of every arm of the laboratory, those with a look of their own first."""
    try:
        files = sorted(config_file("arms").rglob("*.yaml"))
    except RunError:  # An installation without configurations draws arms by their names.
        return
    arms = [(path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))) for path in files]
    for name, arm in sorted(arms, key=lambda named: named[1].get("look", {}).get("place", 99)):
        yield read_style({"name": name, "label": arm["title"], **arm.get("look", {})})
