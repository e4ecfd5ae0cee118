"""Which steps of a long rationale answers are forced after, where not after all of them."""

from collections.abc import Sequence

from attcot_analysis.errors import check_numbers
from attcot_analysis.models import Encoded


def check_max_steps(max_steps: int | None) -> None:
    """See that a limit of probed steps leaves room for both ends.

    Raises:
        MeasureError: If it does not.
    """
    if max_steps is not None:  # k = 0 and k = K are always probed.
        check_numbers(max_steps=max_steps)


def probed_steps(written: Sequence[int], max_steps: int | None = None) -> tuple[int, ...]:
    """Choose at most so many of the steps 0 to K, evenly by tokens written.

    k = 0 and k = K are always among them. The others are those nearest to equal shares of the
    rationale's tokens, one after the other from the first, each later than the one before (the
    earlier of two that are equally near). The choice depends on nothing but the arguments.

    Args:
        written: ``(K + 1,)``, how many tokens are written after each step, ascending.
        max_steps: How many to choose, at least 2; ``None`` for all.

    Returns:
        ``min(max_steps, K + 1)`` steps, ascending.

    Raises:
        MeasureError: If ``max_steps`` is below 2.
    """
    check_max_steps(max_steps)
    last = len(written) - 1
    if max_steps is None or last < max_steps:
        return tuple(range(last + 1))
    chosen = [0]
    for at in range(1, max_steps - 1):
        share = written[0] + (written[last] - written[0]) * at / (max_steps - 1)
        # As many steps are left behind it as are still to be chosen.
        free = range(chosen[-1] + 1, last - (max_steps - 2 - at))
        chosen.append(min(free, key=lambda k: abs(written[k] - share)))
    return (*chosen, last)


def probed(encoded: Encoded, max_steps: int | None = None) -> tuple[int, ...]:
    """`probed_steps` of an item's rationale."""
    return probed_steps([cut.stop for cut in encoded.layout.cuts], max_steps)
