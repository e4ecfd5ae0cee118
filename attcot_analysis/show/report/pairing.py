"""Can two measured arms be compared, and what must be known of it: settings, items, models."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
import yaml

from attcot_analysis.errors import AttCoTError, ProblemError, RunError, one_line
from attcot_analysis.measures.commitment import LOW_MASS
from attcot_analysis.measures.unread import paragraph_note
from attcot_analysis.models import Mllm, load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.folder import LINES, load_problems
from attcot_analysis.problems.formats import TAGS, ResponseFormat, format_of
from attcot_analysis.runs.manifests import first_difference
from attcot_analysis.runs.provenance import problems_hash, settings_files, weights_hash
from attcot_analysis.shipped import data_folder
from attcot_analysis.show.html import static_text
from attcot_analysis.show.report.arms import MeasuredArm

FEW = 30
"""With fewer items a bootstrap interval is known to be too narrow."""
FEW_SEEDS = 3
"""With so many, or fewer, an interval over seeds is wide."""
HALF_PRECISION_ERROR = 0.04
"""How far bf16 was seen to move the visual mass of the worst single head; see docs/validity.md."""
_TELLING = ("torch", "transformers", "attcot-analysis")
_NOTES: Mapping[str, str] = yaml.safe_load(static_text("report/notes.yaml"))


def note(key: str, **words: object) -> str:
    """A sentence of ``notes.yaml``."""
    return _NOTES[key].format(**words)


def pairing_notes(a: MeasuredArm, b: MeasuredArm) -> list[str]:
    """See that two arms were measured so that they compare.

    Returns:
        One sentence for everything that a reader of the comparison should know.

    Raises:
        RunError: If a setting differs that makes the numbers incomparable.
    """
    if a.data["n"] == b.data["n"] and a.data["sha256"] != b.data["sha256"]:
        raise RunError(
            f"{a.path} and {b.path} were measured on other items; measure both on the same problem "
            "folder to compare them."
        )
    both = all(len(one.get("access", ())) for arm in (a, b) for one in arm.tables.values())
    if both and a.settings and b.settings and a.settings.get("layers") != b.settings.get("layers"):
        layers = [_layers(arm.settings.get("layers")) for arm in (a, b)]
        raise RunError(
            f"{a.path} was read at {layers[0]} and {b.path} at {layers[1]}, so their visual access "
            "is not the same quantity; measure both with the same --layers."
        )
    limits = [arm.settings.get("max_new_tokens") for arm in (a, b)]
    if None not in limits and limits[0] != limits[1]:
        cut = [arm for arm in (a, b) if cut_off(arm)]
        if cut:
            raise RunError(
                f"Responses of {cut[0].path} were cut off at {cut[0].settings['max_new_tokens']} "
                "tokens, and the other run's limit is another; measure both with the same, larger "
                "--max-new-tokens."
            )
    pair = {"a": a.name, "b": b.name}
    notes = [
        note("cut_off", share=share, whose=f" of {arm.name}")
        for arm in (a, b)
        if (share := cut_off(arm))
    ]
    for arm in (a, b):
        if arm.foreign:
            notes.append(note("foreign", model=arm.name))
        elif arm.settings.get("generations"):
            notes.append(note("generations", model=arm.name))
    known = bool(a.settings and b.settings)
    drawn = [_drawn(arm) for arm in (a, b)]
    if known and drawn[0] != drawn[1]:
        notes.append(note("drawn", **pair, drawn=drawn))
    samples = [arm.settings.get("samples", 1) for arm in (a, b)]
    edited = [arm.settings.get("edited_samples") for arm in (a, b)]
    if samples[0] != samples[1] or edited[0] != edited[1]:
        counts = [
            f"{n} response{'s' * (n != 1)}" + ("" if few is None else f" ({few} for dependence)")
            for n, few in zip(samples, edited, strict=True)
        ]
        notes.append(note("samples", **pair, counts=counts))
    steps = [arm.settings.get("max_steps") for arm in (a, b)]
    if known and steps[0] != steps[1]:
        probed = ["all steps" if n is None else f"at most {n} steps" for n in steps]
        notes.append(note("max_steps", **pair, probed=probed))
    dtypes = [arm.settings.get("dtype") for arm in (a, b)]
    if None not in dtypes and dtypes[0] != dtypes[1]:
        notes.append(note("dtypes", **pair, dtypes=dtypes))
    differing = [
        f"{name} {a.versions[name]} and {b.versions[name]}"
        for name in _TELLING
        if name in a.versions and name in b.versions and a.versions[name] != b.versions[name]
    ]
    if differing:
        notes.append(note("versions", differing="; ".join(differing)))
    first, second = (arm.model.get("weights_sha256") for arm in (a, b))
    if first is not None and first == second and a.path != b.path:
        notes.append(note("same_weights", **pair))
    families = [arm.model.get("family") for arm in (a, b)]
    if None not in families and families[0] != families[1]:
        notes.append(note("families", **pair, families=families))
    eyes = [arm.model.get("processor", {}).get("image_processor") for arm in (a, b)]
    if None not in eyes and families[0] == families[1] and eyes[0] != eyes[1]:
        keys = {*eyes[0], *eyes[1]}
        differing = sorted(key for key in keys if eyes[0].get(key) != eyes[1].get(key))
        notes.append(note("eyes", differing=", ".join(differing)))
    return notes


def format_notes(a: MeasuredArm, b: MeasuredArm) -> list[str]:
    """Say that two arms were asked, or their responses read, in other ways; empty if they were not.

    Runs from before formats were recorded were asked in tags.
    """
    unset = ResponseFormat(cue="-", close="-").model_dump(mode="json")
    records = [{**unset, **(arm.model.get("format") or TAGS.record())} for arm in (a, b)]
    differing = [
        key
        for key in records[0]
        if key not in ("name", "source", "sign") and records[0][key] != records[1].get(key)
    ]
    if not differing:
        return []
    names = [record["name"] for record in records]
    asked = {"a": a.name, "b": b.name, "names": names, "differing": ", ".join(differing)}
    return [note("formats", **asked)]


def cut_off(arm: MeasuredArm) -> float:
    """Share of an arm's responses with a rationale that were cut off at the length limit."""
    cut = [~kinds["answers_cot"]["finished"].astype(bool) for kinds in arm.tables.values()]
    return float(pd.concat(cut).mean())


def size_notes(n: int) -> list[str]:
    """Warn of few items."""
    return [note("few_items", n=n)] if n < FEW else []


def seed_notes(a: MeasuredArm, b: MeasuredArm) -> list[str]:
    """Say that a comparison of single training runs is one of checkpoints; warn of few seeds."""
    few, many = sorted(len(arm.tables) for arm in (a, b))
    seeds = few if few > 1 else many
    if seeds == 1:
        return [note("one_run", b=b.name)]
    return [note("few_seeds", n=seeds)] if seeds <= FEW_SEEDS else []


_OF_SOME = ("refocused",)
"""Metrics of items that differ between arms: that one has none of them is no other setting."""


def metric_notes(a: str, b: str, values: pd.DataFrame) -> list[str]:
    """Say which metrics only one of two models has, which are left out of the comparison."""
    have = {
        name: list(dict.fromkeys(values.loc[values["model"] == name, "metric"])) for name in (a, b)
    }
    notes = []
    for name, other in ((a, b), (b, a)):
        alone = [one for one in have[name] if one not in have[other] and one not in _OF_SOME]
        if alone:
            notes.append(note("alone", model=name, other=other, metrics=", ".join(alone)))
    return notes


def precision_notes(*arms: MeasuredArm) -> list[str]:
    """Say whose attention was read in half precision, and how far off a single head can be."""
    half = {
        arm.name: dtype
        for arm in arms
        if (dtype := arm.settings.get("dtype")) in ("bfloat16", "float16")
    }
    if not half:
        return []
    models, dtypes = " and ".join(half), " and ".join(dict.fromkeys(half.values()))
    were = "were" if len(half) > 1 else "was"
    return [note("half", models=models, were=were, dtypes=dtypes, error=HALF_PRECISION_ERROR)]


def mass_notes(values: pd.DataFrame) -> list[str]:
    """Say whose probabilities over candidates compare answers that it would not give."""
    masses = values[values["metric"] == "candidate_mass0"].dropna(subset="value")
    return [
        note("mass", model=name, low=low, n=len(own), least=LOW_MASS)
        for name, own in masses.groupby("model", sort=False)["value"]
        if (low := int((own < LOW_MASS).sum()))
    ]


def paragraph_notes(*arms: MeasuredArm) -> list[str]:
    """Say whose rationales are one paragraph, and what they were cut by."""
    said = {
        arm.name: paragraph_note(
            pd.concat([kinds["answers_cot"] for kinds in arm.tables.values()], ignore_index=True)
        )
        for arm in arms
    }
    return [f"{name}: {sentence}" for name, sentence in said.items() if sentence]


def find_problems(
    a: MeasuredArm, b: MeasuredArm, folder: str | Path | None = None
) -> tuple[list[Problem], list[str]]:
    """Find the items that both arms were measured on.

    Looked at are the folder, or else those noted in the runs and the shipped ones. A run on
    the first items of the other's compares with it on these.

    Returns:
        The items that both have, and a sentence if one has more.

    Raises:
        RunError: If no folder holds the items of both.
    """
    places = [Path(folder)] if folder is not None else [*_noted(a, b), *_shipped()]
    n = max(int(arm.data["n"]) for arm in (a, b))
    for place in places:
        problems = load_problems(place, limit=n, keep_pictures=False)
        if all(problems_hash(problems[: arm.data["n"]]) == arm.data["sha256"] for arm in (a, b)):
            shared = min(int(arm.data["n"]) for arm in (a, b))
            more = max((a, b), key=lambda arm: int(arm.data["n"]))
            fewer = [note("fewer_items", model=more.name, n=n, shared=shared)]
            return problems[:shared], fewer if shared < n else []
    if folder is not None:
        raise RunError(
            f"The problems in {folder} are not those that {a.path} and {b.path} were measured on; "
            "give the folder that both were measured on."
        )
    if a.data["n"] != b.data["n"] and places:
        raise RunError(
            f"{a.path} has {a.data['n']} items and {b.path} {b.data['n']}, and no problem folder "
            "is known that begins with both; measure both on the same one, or give it with "
            "--problems."
        )
    raise RunError(
        f"The problems that {a.path} was measured on are not where they were; give their folder "
        "with --problems."
    )


def find_model(arm: MeasuredArm, checkpoint: str | Path | None = None) -> Mllm:
    """Load the model that an arm was measured with.

    Args:
        arm: The arm; of several seeds its first.
        checkpoint: Where it is now, if not where the run has it from.

    Raises:
        RunError: If it is not there, is another one, or does not fit into memory.
    """
    place = arm.checkpoint if checkpoint is None else checkpoint
    try:
        form = format_of(arm.model.get("format") or TAGS.record())
    except ProblemError as error:
        raise RunError(f"the format of {arm.name} is not known ({error})") from error
    wanted = arm.model.get("weights_sha256")
    if wanted is not None:
        folder = next((path for path in _folders(place) if path.is_dir()), None)
        if folder is None:
            raise RunError(f"the checkpoint of {arm.name} is not where it was")
        if weights_hash(folder) != wanted:
            raise RunError(f"the weights of {arm.name} at {folder.name} are not those measured")
        noted = {"files": arm.model.get("files", {})}
        changed = first_difference(noted, {"files": settings_files(folder)})
        if noted["files"] and changed is not None:
            raise RunError(f"the checkpoint of {arm.name} has changed: {changed}")
        place = folder
    if place is None:
        raise RunError(f"the checkpoint of {arm.name} is not known")
    if checkpoint is None and not Path(place).is_dir():
        # A run may be anybody's; asking the hub for what it names would send the user's token.
        raise RunError(
            f"{arm.name} was loaded from the hub ({place}), which is asked only for models that "
            "you name yourself"
        )
    try:
        return load_mllm(
            place,
            dtype=arm.settings.get("dtype", "auto"),
            revision=arm.model.get("revision"),
            **arm.model.get("limits", {}),
            format=form,
        )
    except (AttCoTError, OSError, torch.OutOfMemoryError) as error:
        raise RunError(f"{arm.name} cannot be loaded ({one_line(error)})") from error


def _folders(place: str | Path | None) -> list[Path]:
    if place is None:
        return []
    return [Path(place), data_folder() / "models" / Path(place).name]


def _noted(a: MeasuredArm, b: MeasuredArm) -> list[Path]:
    places = dict.fromkeys(arm.problems for arm in (a, b) if arm.problems is not None)
    return [place for place in places if (place / LINES).is_file()]


def _shipped() -> Iterable[Path]:
    try:
        return sorted(path.parent for path in (data_folder() / "problems").glob(f"*/{LINES}"))
    except AttCoTError:
        return []


def _layers(layers: Sequence[int] | None) -> str:
    return "all layers" if layers is None else f"layers {', '.join(map(str, layers))}"


def _drawn(arm: MeasuredArm) -> str:
    sampling = arm.settings.get("sampling") or {}
    values = ", ".join(f"{name} {value}" for name, value in sorted(sampling.items()))
    if sampling:
        return f"drawn as recommended ({values})"
    temperature = arm.settings.get("temperature")
    return f"drawn at temperature {temperature}" if temperature else "greedy"
