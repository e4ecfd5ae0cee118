"""Figures of a VISTA round: what is kept and cut, which scores drop, what is gained."""

import matplotlib.colors
import pandas as pd
import pytest

from attcot_analysis.errors import ShowError
from attcot_analysis.show.style import GRID, INK
from attcot_lab.vista.figures import mended_rationale, score_distribution, yield_intervals

TOKENS = ["<think>", "\n", "1", ".", " b1", " points", " up", "."]
SCORES = pd.DataFrame(
    {
        "item": ["a", "a", "a", "b", "c"],
        "share": [0.5, 0.6, 0.1, 0.2, float("nan")],
        "vas": [0.5, 0.9, -1.4, 0.0, float("nan")],
        "kept": [True, True, False, True, False],
    }
)


def test_a_mended_rationale_shows_what_is_kept_replaced_and_cut():
    figure = mended_rationale(TOKENS, 4, " a1", plausible=[" a1", " c1"], columns=24)
    (ax,) = figure.axes
    drawn = [(text.get_text(), text.get_color()) for text in ax.texts]
    assert [text for text, _ in drawn[: len(TOKENS)]] == [
        token.replace("\n", "↵") for token in TOKENS
    ]
    colors = [color for _, color in drawn[: len(TOKENS)]]
    assert colors[:4] == [INK] * 4 and colors[5:] == [GRID] * 3
    assert colors[4] not in (INK, GRID)
    said = " ".join(text for text, _ in drawn[len(TOKENS) :])
    assert "“ b1” is replaced by “ a1”" in said and "“ a1”, “ c1”" in said.replace("  ", " ")

    # No two letters stand in one place, and every line ends within the page.
    taken = set()
    for text in ax.texts[: len(TOKENS)]:
        column, line = text.get_position()
        own = {(line, column + at) for at in range(len(text.get_text()))}
        assert not own & taken and column + len(text.get_text()) <= 24
        taken |= own
    # What follows a return stands at the start of the next line.
    assert ax.texts[2].get_position() == (0, 1.5)


@pytest.mark.parametrize("position", [-1, len(TOKENS)])
def test_a_position_outside_the_response_is_refused(position):
    with pytest.raises(ShowError, match="critical token has position"):
        mended_rationale(TOKENS, position, "x")


def test_scores_are_drawn_with_threshold_and_by_question():
    bars, dots = score_distribution(SCORES, tau=-0.5).axes
    heights = [sum(patch.get_height() for patch in container) for container in bars.containers]
    assert heights == [3, 1]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == [
        "kept (3)",
        "dropped (1)",
    ]
    # A bar holds what its label says, and two of one place stand on each other.
    (worst,) = bars.containers[1]
    assert worst.get_x() <= -1.4 < worst.get_x() + worst.get_width()
    assert [line.get_xdata()[0] for line in bars.lines] == [-0.5]
    kept, dropped = dots.lines
    # Question b has the lower mean and stands first.
    assert set(zip(*kept.get_data(), strict=True)) == {(2, 0.5), (2, 0.6), (1, 0.2)}
    assert set(zip(*dropped.get_data(), strict=True)) == {(2, 0.1)}
    assert kept.get_markerfacecolor() != dropped.get_markerfacecolor()
    assert "n = 2" in dots.get_xlabel()


def test_a_table_without_scores_is_refused():
    with pytest.raises(ShowError, match="lacks "):
        score_distribution(SCORES.drop(columns="vas"), tau=0)
    with pytest.raises(ShowError, match="holds no score"):
        score_distribution(SCORES.tail(1), tau=0)


def yields(*rows):
    return pd.DataFrame(rows, columns=["success", "draw", "value", "low", "high", "n"])


def test_yields_are_drawn_by_draw_with_their_paired_difference():
    table = yields(
        ("answer", "sampled", 0.9, 0.8, 1.0, 20),
        ("answer", "continued", 0.25, 0.1, 0.5, 4),
        ("answer", "plain", 0.75, 0.5, 1.0, 4),
        ("answer", "continued - plain", -0.5, -1.0, -0.1, 4),
        ("rationale", "continued", 0.0, 0.0, 0.0, 6),
    )
    axs = yield_intervals(table).axes
    values, difference, other, nothing = axs
    assert [container.lines[0].get_xdata()[0] for container in values.containers] == [0.25, 0.75]
    assert [label.get_text() for label in values.get_yticklabels()] == [
        "mended prefixes, continued",
        "as many plain samples",
    ]
    assert values.get_title("left") == "right answer (4 hard questions)"
    ((line, _, (bar,)),) = difference.containers
    assert line.get_xdata()[0] == -0.5
    assert bar.get_segments()[0][:, 0] == pytest.approx([-1.0, -0.1])
    assert matplotlib.colors.to_hex(line.get_markerfacecolor()) != "#ffffff"
    assert len(other.containers) == 1 and not nothing.containers


def test_a_difference_whose_interval_includes_zero_is_hollow():
    table = yields(
        ("answer", "continued", 0.5, 0.1, 0.9, 1),
        ("answer", "continued - plain", 0.0, -0.5, 0.5, 1),
    )
    values, difference = yield_intervals(table).axes
    ((line, *_),) = difference.containers
    assert matplotlib.colors.to_hex(line.get_markerfacecolor()) == "#ffffff"
    assert values.get_title("left") == "right answer (1 hard question)"


def test_yields_without_a_further_draw_are_refused():
    with pytest.raises(ShowError, match="neither continued nor plain"):
        yield_intervals(yields(("answer", "sampled", 1, 1, 1, 3)))
