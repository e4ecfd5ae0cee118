"""`CotOutcomes`: which items CoT hurt and which it helped, and what else is known of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from attcot_analysis.errors import MeasureError, check_known, check_table
from attcot_analysis.measures._items import Result
from attcot_analysis.measures.compare import compare
from attcot_analysis.measures.samples import SAMPLE
from attcot_analysis.measures.unread import LIMIT, unread_sentence
from attcot_analysis.stats.catalogue import Metric
from attcot_analysis.stats.intervals import Interval, share_difference, share_interval

STOPPED = 0.5
"""With less than this share of its first step's attention in the last one, it stopped looking."""

FEW_HURT = 10
"""With fewer items that CoT hurt the intervals are too wide for most questions."""

GROUPS: Mapping[str, str] = {
    "hurt": "CoT hurt",
    "helped": "CoT helped",
    "right": "both right",
    "wrong": "both wrong",
    "rest": "the rest",
    "unparsed": "unparsed",
}
"""Groups of items, in words. ``rest`` is ``right`` and ``wrong`` together."""
DRAWN = ("hurt", "helped", "rest")
"""The groups that a figure shows."""


@dataclass(frozen=True)
class Sign:
    """A yes or no about an item, besides its answers.

    Attributes:
        metric: What it means, and what would falsify the reading.
        asked: The question about the items that CoT hurt.
        like: The group to hold them against where others are unfair; see the falsifier.
    """

    metric: Metric
    asked: str
    like: str


_TABLE = yaml.safe_load(Path(__file__).with_name("outcomes.yaml").read_text(encoding="utf-8"))
SIGNS: Mapping[str, Sign] = {
    name: Sign(
        Metric(name, **{key: text for key, text in row.items() if key not in ("asked", "like")}),
        row["asked"],
        row["like"],
    )
    for name, row in _TABLE["signs"].items()
}
"""Signs by the names of their columns."""
_SAID: Mapping[str, str] = _TABLE["sentences"]
PATTERNS: tuple[Mapping[str, str], ...] = tuple(_TABLE["patterns"])
"""What the signs say together: ``commitment``, ``access``, ``dependence``, ``reading``."""

Word = Literal["yes", "no", "inconclusive", "unparsed"]
WORDS: Mapping[Word, str] = {
    "yes": "Yes",
    "no": "The opposite",
    "inconclusive": "Inconclusive",
    "unparsed": "Unparsed",
}
"""What is written for each verdict, as in a comparison."""
_ALPHA = 0.05


@dataclass(frozen=True)
class SignAnswer:
    """What the measurements say to the question of a sign.

    Attributes:
        sign: Which.
        word: ``"yes"`` if the items that CoT hurt show it more often than the rest, ``"no"`` for
            the opposite, ``"inconclusive"`` if the interval of the difference holds zero,
            ``"unparsed"`` if too many answers were not read.
        shares: How many of the hurt, the helped and the rest, with intervals.
        differences: Of the hurt from the rest, and from the items that are most like them, with
            intervals.
        apart: Whether the hurt are told apart from the items most like them, too.
    """

    sign: Sign
    word: Word
    shares: str
    differences: str
    apart: bool

    def __str__(self) -> str:
        """Write it as one sentence."""
        return f"{self.sign.asked} {WORDS[self.word]}. {self.shares}; {self.differences}."


class CotOutcomes(Result):
    """Every item by its direct and its CoT answer, and which signs it shows.

    CoT *hurt* an item if the direct answer is right and the one with a rationale wrong, and
    *helped* it in the reverse case; both are counts of answers and name no cause. Items with an
    unparsed answer are in neither group. The table has one row per item, training seed and
    response: ``item``, ``seed``, ``response`` (the sample; 0 where there is one), ``group`` (a key
    of `GROUPS`), ``direct``, ``cot`` (the answers, missing where unparsed), ``direct_correct``,
    ``cot_correct``; the signs (0, 1 or missing), which `SIGNS` defines; ``looking`` (attention to
    the picture in the last step over the first: the larger of the ratios of mass and share),
    ``net`` (net dependence, nats).
    """

    name = "outcomes"
    title = "CoT against direct answers"
    columns = (
        "item",
        "seed",
        "response",
        "group",
        "direct",
        "cot",
        "direct_correct",
        "cot_correct",
        *SIGNS,
        "looking",
        "net",
    )

    @property
    def n_seeds(self) -> int:
        """Training seeds."""
        return int(self.table["seed"].nunique())

    @property
    def unread(self) -> tuple[str, ...]:
        """A sentence for each kind of answers of which more than 2 % could not be read."""
        kinds = {"CoT answers": "cot", "direct answers": "direct"}
        shares = {what: float(self.table[name].isna().mean()) for what, name in kinds.items()}
        return tuple(
            unread_sentence(share, what) for what, share in shares.items() if share > LIMIT
        )

    @cached_property
    def accuracy(self) -> Mapping[str, Any]:
        """CoT minus direct accuracy, paired by item: the row of `compare`.

        An unparsed answer counts as wrong, as in every accuracy; samples of an item are averaged.
        """
        means = self.table.groupby(["seed", "item"], sort=False)[["direct_correct", "cot_correct"]]
        items = means.mean().reset_index().set_axis(["seed", "item", "direct", "cot"], axis=1)
        values = items.melt(["seed", "item"], var_name="model").assign(metric="accuracy_cot")
        rows = compare(values, "direct", "cot")
        return {str(name): value for name, value in rows.iloc[0].items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many items (with several seeds or samples: pairs of answers) are in each group."""
        return {name: int(self._in(name).sum()) for name in GROUPS}

    def items(self, group: str) -> list[str]:
        """The items of a group, those first that are in it with most seeds and samples."""
        return list(map(str, self.table.loc[self._in(group), "item"].value_counts(sort=True).index))

    def group(self, item: str) -> str:
        """The group in which an item is with most seeds and samples."""
        own = self.table.loc[self.table["item"] == item, "group"]
        return str(own.mode().iloc[0]) if len(own) else ""

    def shares(self) -> pd.DataFrame:
        """How many items of each group show each sign.

        Returns:
            One row per sign and group: ``sign``, ``group``, ``count`` and ``of`` (rows of the table
            that show it, and of which it is known), ``value``, ``low``, ``high`` (share with
            Wilson's interval), ``n`` (items, whose seeds and samples count as one).
        """
        rows = []
        for name in self._measured:
            for group in GROUPS:
                part = self.table.loc[self._in(group), ["item", name]].dropna()
                share = self._share(name, group, 0.95)
                ends = (share.value, share.low, share.high, share.n)
                rows.append((name, group, int(part[name].sum()), len(part), *ends))
        names = ["sign", "group", "count", "of", "value", "low", "high", "n"]
        return pd.DataFrame(rows, columns=names)

    def differences(self) -> pd.DataFrame:
        """How much more often one group shows a sign than another.

        Returns:
            One row per sign and pair of groups: ``sign``, ``group``, ``against``, ``value``,
            ``low``, ``high`` (Newcombe's interval, at the level at which the intervals of all
            signs together hold with 95 %, Bonferroni), ``n`` (items of the smaller group).
        """
        pairs = (("hurt", "rest"), ("hurt", "helped"), ("hurt", "wrong"), ("helped", "rest"))
        found = [
            (name, *pair, self._difference(name, *pair))
            for name in self._measured
            for pair in pairs
        ]
        names = ["sign", "group", "against", "value", "low", "high", "n"]
        rows = [(*of, one.value, one.low, one.high, one.n) for *of, one in found]
        return pd.DataFrame(rows, columns=names)

    def patterns(self) -> pd.DataFrame:
        """Count the items that show each of the known patterns; see `PATTERNS`.

        Returns:
            ``commitment``, ``access``, ``dependence``, ``reading`` and the counts ``hurt``,
            ``helped``, ``rest``. The last two rows are items with another pattern, and items of
            which a sign is not known.
        """
        late = self.table["decided_first"] == 0
        falling = self.table["stopped_looking"] == 1
        weak = self._weak
        known = self.table[["decided_first", "stopped_looking"]].notna().all(axis=1) & weak.notna()
        found = []
        for row in PATTERNS:
            here = known & (late == (row["commitment"] == "late"))
            here &= (weak == 1) == (row["dependence"] == "low")
            if row["access"] != "any":
                here &= falling == (row["access"] == "falling")
            found.append((row, here))
        other = known & ~np.logical_or.reduce([here for _, here in found])
        blank = dict.fromkeys(("commitment", "access", "dependence"), "")
        found.append(({**blank, "reading": "another pattern"}, other))
        found.append(({**blank, "reading": "not known: something was not measured"}, ~known))
        return pd.DataFrame(
            [
                {**row, **{group: int((here & self._in(group)).sum()) for group in DRAWN}}
                for row, here in found
            ]
        )

    @property
    def headline(self) -> str:
        """Say what was not read, then whether CoT is right more often: if the interval says so.

        Of one run that is said of this checkpoint.
        """
        row = self.accuracy
        numbers = _SAID["numbers"].format(
            cot=float(self.table["cot_correct"].mean()),
            direct=float(self.table["direct_correct"].mean()),
            difference=f"{_signed(row['value'])} {_ends(row['low'], row['high'])}",
            n=self._n,
        )
        who = "this checkpoint" if self.n_seeds == 1 else "it"
        verdict = _SAID[self._verdict].format(who=who, numbers=numbers)
        return " ".join([*self.unread, *self._unparsed, f"{verdict}."])

    @property
    def glance(self) -> str:
        """Say in a word whether CoT hurts; empty where the headline begins with why not."""
        return str(_TABLE["glance"].get(self._verdict, ""))

    @property
    def _verdict(self) -> str:
        row = self.accuracy
        if self.unread:
            return "unread"
        # Unparsed answers count as wrong, though they are among neither group.
        if row["low"] > 0 or row["high"] < 0:
            return "more" if row["low"] > 0 else "less"
        return "inconclusive" if self.counts["hurt"] or self.counts["helped"] else "neither"

    @property
    def why(self) -> str:
        """Say which signs the hurt items show more or less often than the rest, how many each."""
        answers = self.answers()
        if not answers or self.unread:
            return ""
        hurt = self.shares().query("group == 'hurt'").set_index("sign")
        titles = {name: SIGNS[name].metric.title for name in hurt.index}
        signs = [f"{titles[name]}: {row['count']} of {row['of']}" for name, row in hurt.iterrows()]
        said = []
        for word, way in (("yes", "more"), ("no", "less")):
            alike = _SAID["alike"].format(way=way)
            told = [
                answer.sign.metric.title + ("" if answer.apart else alike)
                for answer in answers
                if answer.word == word
            ]
            said += [_SAID["told"].format(way=way, signs="; ".join(told))] if told else []
        return " ".join([*(said or [_SAID["untold"]]), _SAID["why"].format(signs="; ".join(signs))])

    @property
    def counted(self) -> str:
        """Say how many items CoT hurt and helped, and what else is to be known of these counts."""
        counts, p_value = self.counts, float(self.accuracy["p_value"])
        sentences = [_SAID["counted"].format(unit=self._unit, **counts)]
        if p_value == p_value and counts["hurt"] + counts["helped"] and not self.unread:
            p = "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
            sentences.append(f"Difference of accuracy ({self.accuracy['test']}): p {p}.")
        if 0 < counts["hurt"] < FEW_HURT:
            sentences.append(_SAID["few_hurt"].format(**counts))
        return " ".join(sentences)

    def answers(self) -> list[SignAnswer]:
        """Answer the question of every sign that was measured, if CoT hurt an item."""
        if not self.counts["hurt"]:
            return []
        table = {(row["sign"], row["group"]): row for row in self.shares().to_dict("records")}
        answers = []
        for name in self._measured:
            sign = SIGNS[name]
            found = self._difference(name, "hurt", "rest")
            like = self._difference(name, "hurt", sign.like)
            word: Word = "unparsed" if self.unread else _word(found)
            shares = []
            for group in DRAWN:
                row = table[name, group]
                share = f", {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                known = share if row["of"] else ""
                shares.append(f"{GROUPS[group]} {row['count']:.0f} of {row['of']:.0f}{known}")
            apart = word not in ("yes", "no") or _word(like) == word
            caveat = "" if apart else ", so not told apart from these"
            differences = (
                f"hurt minus {GROUPS['rest']} {_interval(found)}; "
                f"hurt minus {GROUPS[sign.like]} {_interval(like)}{caveat}"
            )
            answers.append(SignAnswer(sign, word, "; ".join(shares), differences, apart))
        return answers

    @property
    def missing(self) -> str:
        """Say which signs were not measured, on how many items others are not known."""
        gone = [SIGNS[name].metric.title for name in SIGNS if name not in self._measured]
        sentences = [f"Not measured: {'; '.join(gone)}."] if gone else []
        read = self.table["group"] != "unparsed"
        for name in self._measured:
            if unknown := int(self.table.loc[read, name].isna().sum()):
                sentences.append(f"Not known of {unknown}: {SIGNS[name].metric.title}.")
        return " ".join(sentences)

    def describe(self) -> str:
        """Say what was not read, if CoT is right more often, and what is known of the items."""
        parts = [self.headline, self.counted, *map(str, self.answers()), self.missing]
        return " ".join(part for part in parts if part)

    def _check(self) -> None:
        unknown = set(self.table["group"]) - set(GROUPS)
        if unknown:
            raise MeasureError(
                f"The table outcomes has the group {sorted(unknown)[0]!r}; expected "
                f"{', '.join(GROUPS)}."
            )
        twice = self.table[self.table.duplicated(["item", "seed", "response"])]
        if len(twice):
            raise MeasureError(
                f"The table outcomes holds item {twice['item'].iloc[0]} twice for a seed and "
                "response; give every run a seed of its own."
            )

    @property
    def _measured(self) -> list[str]:
        return [name for name in SIGNS if self.table[name].notna().any()]

    @property
    def _weak(self) -> pd.Series:
        net = self.table["no_net_dependence"]
        return net if net.notna().any() else self.table["twin_not_followed"]

    @property
    def _n(self) -> str:
        seeds = f" × {self.n_seeds} seeds" if self.n_seeds > 1 else ""
        count = self.table["response"].nunique()
        samples = f" × {count} samples" if count > 1 else ""
        return f"{self.n} item{'' if self.n == 1 else 's'}{seeds}{samples}"

    @property
    def _unit(self) -> str:
        return "items" if len(self.table) == self.n else "pairs of answers"

    @property
    def _unparsed(self) -> list[str]:
        count, of = self.counts["unparsed"], len(self.table)
        return [_SAID["unparsed"].format(count=count, of=of, unit=self._unit)] if count else []

    def _in(self, group: str) -> pd.Series:
        check_known(group, GROUPS, f"There is no group {group!r}")
        names = ("right", "wrong") if group == "rest" else (group,)
        return self.table["group"].isin(names)

    def _share(self, sign: str, group: str, level: float) -> Interval:
        part = self.table.loc[self._in(group), ["item", sign]].dropna()
        share = float(part[sign].mean()) if len(part) else np.nan
        return share_interval(share, part["item"].nunique(), level=level)

    def _difference(self, sign: str, group: str, against: str) -> Interval:
        level = 1 - _ALPHA / max(len(self._measured), 1)
        return share_difference(self._share(sign, group, level), self._share(sign, against, level))


def cot_outcomes(tables: Mapping[int, Mapping[str, pd.DataFrame]]) -> CotOutcomes:
    """Hold a model's CoT answers against its direct ones, with what was measured on its rationales.

    Args:
        tables: Training seed → name → table, as `measure` returns them: ``answers_cot`` and
            ``answers_direct``, and of ``commitment``, ``access`` and ``dependence`` those that
            there are. Several samples of an item are paired by their number, with the only direct
            answer where there is one.

    Raises:
        MeasureError: If there are no direct answers, or tables do not fit together.
    """
    parts = [
        _outcomes(own).assign(seed=seed, response=sample)
        for seed, kinds in tables.items()
        for sample, own in _samples(kinds)
    ]
    if not parts:
        raise MeasureError("No run was given, so there are no answers to compare; give one.")
    return CotOutcomes(pd.concat(parts, ignore_index=True)[list(CotOutcomes.columns)])


def _samples(
    kinds: Mapping[str, pd.DataFrame],
) -> Iterator[tuple[int, Mapping[str, pd.DataFrame]]]:
    """The tables of each sample; what has none belongs to all."""
    cot = kinds.get("answers_cot")
    if cot is None or SAMPLE not in cot:
        yield 0, kinds
        return
    for sample in sorted(cot[SAMPLE].unique()):
        yield (
            int(sample),
            {
                name: table[table[SAMPLE] == sample] if SAMPLE in table else table
                for name, table in kinds.items()
            },
        )


def _outcomes(kinds: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of one run."""
    both = {}
    for mode, what in (("cot", "answers"), ("direct", "direct")):
        table = kinds.get(f"answers_{mode}")
        if table is None or table.empty:
            raise MeasureError(
                f"There are no {'CoT' if mode == 'cot' else 'direct'} answers, so whether CoT "
                f"hurts is not known; measure {what!r} as well, as attcot measure does."
            )
        check_table(table, f"answers_{mode}", ("item", "answer", "correct"))
        if table["item"].duplicated().any():
            raise MeasureError(f"The table answers_{mode} holds an item twice; give one run's.")
        both[mode] = table.set_index("item")
    cot, direct = both["cot"], both["direct"]
    if set(cot.index) != set(direct.index):
        raise MeasureError(
            f"CoT and direct answers share {len(set(cot.index) & set(direct.index))} of {len(cot)} "
            f"and {len(direct)} items; answer the same problems in both modes."
        )
    direct = direct.loc[cot.index]
    right = {mode: table["correct"].astype(bool) for mode, table in (("c", cot), ("d", direct))}
    unread = cot["answer"].isna() | direct["answer"].isna()
    group = np.select(
        [unread, right["c"] & right["d"], right["d"], right["c"]],
        ["unparsed", "right", "hurt", "helped"],
        "wrong",
    )
    signs: dict[str, pd.Series | None] = dict.fromkeys((*SIGNS, "looking", "net"))
    if (table := _rows(kinds, "commitment")) is not None:
        signs["decided_first"] = _decided_first(table)
    if (table := _rows(kinds, "access")) is not None:
        looking = signs["looking"] = _looking(table)
        signs["stopped_looking"] = (looking < STOPPED).astype(float).where(looking.notna())
    if (table := _rows(kinds, "dependence")) is not None:
        signs["twin_not_followed"] = 1.0 - _edit(table, "twin", "regenerated", "followed")
        lost = [_edit(table, edit, "fixed", "delta_log_p") for edit in ("twin", "control")]
        net = signs["net"] = lost[0] - lost[1]
        signs["no_net_dependence"] = (net <= 0).astype(float).where(net.notna())
    columns = {
        name: np.nan if values is None else values.reindex(cot.index).to_numpy(float)
        for name, values in signs.items()
    }
    return pd.DataFrame(
        {
            "item": cot.index.astype(str),
            "group": group,
            "direct": direct["answer"].to_numpy(object),
            "cot": cot["answer"].to_numpy(object),
            "direct_correct": right["d"].to_numpy(),
            "cot_correct": right["c"].to_numpy(),
            **columns,
        }
    )


def _rows(kinds: Mapping[str, pd.DataFrame], name: str) -> pd.DataFrame | None:
    table = kinds.get(name)
    return table if table is not None and len(table) else None


def _decided_first(table: pd.DataFrame) -> pd.Series:
    """Per item whether one candidate is the most probable one from before the first step on."""
    check_table(table, "commitment", ("item", "control", "step", "candidate", "p"))
    own = table[(table["control"] == "rationale") & table["p"].notna()].reset_index(drop=True)
    best = own.loc[own.groupby(["item", "step"], sort=False)["p"].idxmax()]
    return best.groupby("item")["candidate"].nunique().eq(1).astype(float)


def _looking(table: pd.DataFrame) -> pd.Series:
    """Per item the attention to the picture in the last step over that in the first."""
    check_table(table, "access", ("item", "step", "mass", "share"))
    steps = table.groupby(["item", "step"])[["mass", "share"]].mean().reset_index("step")
    items = steps.groupby("item", sort=False)
    first, last = (part[["mass", "share"]] for part in (items.head(1), items.tail(1)))
    several = items.size() > 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return (last / first).max(axis=1, skipna=False).where(several)


def _edit(table: pd.DataFrame, edit: str, rationale: str, column: str) -> pd.Series:
    """A column of dependence by item, of one edit and rationale."""
    check_table(table, "dependence", ("item", "edit", "rationale", column))
    rows = table[(table["edit"] == edit) & (table["rationale"] == rationale)]
    return rows.set_index("item")[column].astype("Float64").astype(float)


def _word(difference: Interval) -> Word:
    if not difference.excludes_zero:
        return "inconclusive"
    return "yes" if difference.low > 0 else "no"


def _interval(found: Interval) -> str:
    if np.isnan(found.low):
        return "not defined"
    return f"{_signed(found.value, 2)} {_ends(found.low, found.high, 2)}"


def _ends(low: float, high: float, digits: int = 3) -> str:
    return f"[{_signed(low, digits)}, {_signed(high, digits)}]"


def _signed(value: float, digits: int = 3) -> str:
    text = f"{value:+.{digits}f}"
    text = text.lstrip("+-") if float(text) == 0 else text
    return text.replace("-", "\N{MINUS SIGN}")
