"""VISTA's rounds: what is drawn, kept and trained on; interruptions; the losses in plain code."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from attcot_analysis.errors import RunError, TrainingError
from attcot_analysis.models import Generation, collate, encode_problem, load_mllm
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.train import AttCoTConfig, FinetuneConfig
from attcot_lab.arms import arm_of, read_arm, train_arm
from attcot_lab.vista import draw as vista_draw
from attcot_lab.vista import run as vista
from attcot_lab.vista.draw import read_vista_round
from attcot_lab.vista.run import run_vista, vista_folder
from attcot_lab.vista.sets import VistaConfig, vista_config
from attcot_lab.vista.train import (
    make_vista_trainer,
    train_vista_round,
    training_rows,
)

RATIONALES = ("1. The star is in cell a1.\n", "1. The square in cell c2 is green.\n2. So.\n")
CONFIG = VistaConfig(rounds=2, samples=4, continuations=1, block=2, max_new_tokens=8)
TRAINING = FinetuneConfig(steps=2, batch_size=2)
ARMS = ["vista_sft", "vista_sft_plain", "vista_sft_no_vas"]
ARMS += [name.replace("sft", "dpo") for name in ARMS]


class Scribe:
    """Stands for generation: every question gets each of two answers after each rationale."""

    def __init__(self, colours):
        self.texts = [
            f"<think>\n{rationale}</think>\n<answer>{colour}</answer>"
            for colour in colours
            for rationale in RATIONALES
        ]
        self.endings = [f"</think>\n<answer>{colour}</answer>" for colour in colours]
        self.calls = 0
        self.fails_at = None

    def __call__(self, mllm, prompts, **_options):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        made = []
        for at, prompt in enumerate(prompts):
            texts = self.endings if prompt.response_ids else self.texts
            text = texts[at % len(texts)]
            ids = tuple(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])
            made.append(Generation(ids, text, finished=True))
        return made


@pytest.fixture
def problems(training_problems):
    """Four problems with two answers between them."""
    colours = list(dict.fromkeys(problem.answer for problem in training_problems))[:2]
    found = [problem for problem in training_problems if problem.answer in colours][:4]
    assert {problem.answer for problem in found} == set(colours)
    return found


@pytest.fixture
def scribe(monkeypatch, problems):
    one = Scribe(list(dict.fromkeys(problem.answer for problem in problems)))
    monkeypatch.setattr(vista_draw, "generate", one)
    return one


@pytest.fixture
def drawn(scribe, random_checkpoint, problems, tmp_path):
    """One round, not trained on."""
    run = RunFolder.create(tmp_path / "drawn", {"seed": 0, "config": {}})
    return vista_draw.draw_round(random_checkpoint, problems, run, 1, CONFIG, 0)


def weights(folder):
    return load_mllm(folder, dtype=torch.float32).model.state_dict()


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_goes_on_where_it_was_stopped(
    scribe, random_checkpoint, problems, tmp_path, monkeypatch
):
    def run(name):
        return run_vista(random_checkpoint, problems, tmp_path / name, CONFIG, TRAINING)

    whole = run("whole")
    # Per block of two questions: samples, then continuations of wrong ones; two rounds.
    assert scribe.calls == 8
    sets = RunFolder.open(vista_folder(whole))
    assert not any((sets.path / "models").iterdir())
    assert {f"round{t}.{part}" for t in (1, 2) for part in ("responses", "critical")} <= set(
        sets.tables
    )
    assert not [name for name in sets.tables if name.endswith("00")]
    counts = sets.read_json("round1")
    assert counts["questions"] == 4 and counts["responses"]["sampled"] == 16
    assert counts["wrong"] == 8 and counts["positives"] > counts["kept"] >= 4

    # Killed while the second block is drawn, and later while the second round is trained.
    scribe.calls, scribe.fails_at = 0, 3
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    scribe.calls, scribe.fails_at = 0, None
    with monkeypatch.context() as patch:
        patch.setattr(vista, "train_vista_round", _only_once())
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert scribe.calls == 6
    stopped = run("stopped")
    assert scribe.calls == 6
    assert same(weights(whole), weights(stopped))
    for name in sets.tables:
        other = RunFolder.open(vista_folder(stopped)).read_table(name)
        assert sets.read_table(name).equals(other)
    with pytest.raises(TrainingError, match="exists already"):
        run("whole")
    shutil.rmtree(stopped)
    with pytest.raises(RunError, match=r"stopped\.vista"):
        run_vista(random_checkpoint, problems, stopped, replace(CONFIG, tau=0.0), TRAINING)
    with pytest.raises(TrainingError, match="is there twice"):
        run_vista(random_checkpoint, problems[:1] * 2, tmp_path / "twice", CONFIG, TRAINING)


def _only_once():
    """Trains one round and is killed in the next."""
    calls = []

    def train(*args, **options):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return train_vista_round(*args, **options)

    return train


@pytest.mark.long
def test_a_first_round_drawn_alike_is_taken_over(scribe, random_checkpoint, problems, tmp_path):
    def run(name, siblings=(), **changes):
        scribe.calls = 0
        config = replace(CONFIG, rounds=1, **changes)
        folder = run_vista(
            random_checkpoint, problems, tmp_path / name, config, TRAINING, siblings=siblings
        )
        return RunFolder.open(vista_folder(folder)), scribe.calls

    everything, calls = run("everything", control=True)
    assert calls == 6
    damaged = tmp_path / "damaged.vista"
    shutil.copytree(everything.path, damaged)
    (damaged / "tables" / "round1.critical.parquet").write_bytes(b"no table")
    foreign = RunFolder.create(tmp_path / "foreign.vista", {"seed": 0, "config": {}}).path
    shutil.copytree(everything.path / "tables", foreign / "tables", dirs_exist_ok=True)
    for name, changes in {
        "plain": {"extra": "plain"},
        "no_vas": {"vas": False},
        "dpo": {"objective": "dpo"},
    }.items():
        alone, calls = run(f"{name}-alone", **changes)
        assert calls == 4 and "first_round_from" not in alone.manifest
        taken, calls = run(
            name, [tmp_path / "absent.vista", damaged, foreign, everything.path], **changes
        )
        assert calls == 0 and taken.manifest["first_round_from"] == "everything.vista"
        assert alone.tables == taken.tables
        for table in alone.tables:
            pd.testing.assert_frame_equal(taken.read_table(table), alone.read_table(table))
        assert same(weights(tmp_path / f"{name}-alone"), weights(tmp_path / name))
    for name, changes in {
        "warm": {"temperature": 0.5},
        "none": {"extra": "none"},
        "more": {"samples": 5},
    }.items():
        other, calls = run(name, [everything.path], **changes)
        assert calls > 0 and "first_round_from" not in other.manifest
    # What a run lacks is drawn by itself.
    _, calls = run("control", [tmp_path / "plain.vista"], control=True)
    assert calls == 6


def test_what_was_drawn_fits_together(drawn, problems, scribe):
    table, by_id = drawn.responses, {problem.id: problem for problem in problems}
    sampled = table[table["origin"] == "sampled"]
    assert len(sampled) == 16 and sampled["correct"].sum() == 8
    for row in table.itertuples():
        said = row.text.partition("<answer>")[2].partition("</answer>")[0]
        assert row.correct == (said == by_id[row.item].answer)
        assert (row.share > 0) == (row.correct and row.finished)
    assert len(drawn.critical) == 8 and drawn.critical["position"].notna().all()
    texts = {(row.item, row.number): row for row in table.itertuples()}
    for cut in drawn.critical.itertuples():
        parent = texts[cut.item, cut.number]
        (child,) = table[(table["item"] == cut.item) & (table["parent"] == cut.number)].itertuples()
        assert not parent.correct and child.kept == cut.position + 1
        assert child.ids[: child.kept] == [*parent.ids[: cut.position], cut.replacement]


def test_a_stored_round_is_filtered_again_without_sampling(
    drawn, random_checkpoint, problems, scribe, tmp_path
):
    scribe.fails_at = scribe.calls + 1
    stored = read_vista_round(tmp_path / "drawn", 1)
    assert stored.responses.equals(drawn.responses)
    strict, loose = (stored.positives(replace(CONFIG, tau=tau)) for tau in (0.5, -9.0))
    assert 0 < strict["kept"].sum() < loose["kept"].sum() == len(loose)
    folders = [tmp_path / name for name in ("strict", "loose")]
    for folder, tau in zip(folders, (0.5, -9.0), strict=True):
        config = replace(CONFIG, tau=tau)
        train_vista_round(random_checkpoint, problems, stored, folder, config, TRAINING)
    assert not same(*map(weights, folders))
    nothing = replace(CONFIG, tau=9.0)
    with pytest.raises(TrainingError, match="nothing to train on"):
        train_vista_round(random_checkpoint, problems, stored, tmp_path / "no", nothing, TRAINING)


def token_log_p(mllm, problem, ids):
    """Of a response and its end, each token by itself."""
    item = encode_problem(mllm, problem, response=ids, end=True)
    logits = mllm.model(**collate(mllm, [item])).logits[0].log_softmax(-1)
    places = range(item.prompt_length, len(item.input_ids))
    return torch.stack([logits[at - 1, item.input_ids[at]] for at in places])


def built(checkpoint, problems, drawn, config, folder, attcot=None):
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    training = replace(TRAINING, attcot=attcot or AttCoTConfig())
    rows = training_rows(drawn, config, training)
    arguments = {"use_cpu": True}
    trainer = make_vista_trainer(
        mllm, checkpoint, problems, drawn, rows, config, training, folder, **arguments
    )
    batch = trainer.data_collator([trainer.train_dataset[at] for at in (0, 1)])
    ids = {(row.item, row.number): row.ids for row in drawn.responses.itertuples()}
    by_id = {problem.id: problem for problem in problems}
    texts = [
        [(by_id[row["item"]], ids[row["item"], row[part]]) for part in rows.columns[1:]]
        for _, row in rows.iloc[:2].iterrows()
    ]
    return trainer, mllm, batch, texts


def test_likelihood_is_a_mean_over_items_of_means_over_tokens(
    drawn, random_checkpoint, problems, tmp_path
):
    config = replace(CONFIG, vas=False)
    trainer, mllm, batch, texts = built(random_checkpoint, problems, drawn, config, tmp_path)
    with torch.no_grad():
        found = trainer.compute_loss(mllm.model, batch)
        own = [token_log_p(mllm, *chosen) for (chosen,) in texts]
    assert len(own[0]) != len(own[1])
    assert float(found) == pytest.approx(-sum(float(one.mean()) for one in own) / 2, rel=1e-5)
    # Accumulated parts are averaged, with the terms of Att-CoT too.
    terms = AttCoTConfig(lambda_vis=1.0, warmup=0.0)
    trainer, mllm, batch, _ = built(random_checkpoint, problems, drawn, config, tmp_path, terms)
    more = trainer.compute_loss(mllm.model, batch, num_items_in_batch=torch.tensor(7))
    assert float(more.detach()) > float(found) and trainer.loss_is_scaled_for_ga is False


def test_dpo_is_the_formula(drawn, random_checkpoint, problems, tmp_path):
    config = replace(CONFIG, objective="dpo", vas=False, beta=0.3, nll=0.7)
    trainer, mllm, batch, texts = built(random_checkpoint, problems, drawn, config, tmp_path)
    base = load_mllm(random_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        for parameter in mllm.model.lm_head.parameters():
            parameter.mul_(1.1)
        found = trainer.compute_loss(mllm.model, batch)
        margins, chosen_tokens = [], []
        for chosen, rejected in texts:
            assert chosen[0] is rejected[0] and chosen[1] != rejected[1]
            good, bad = token_log_p(mllm, *chosen), token_log_p(mllm, *rejected)
            before = token_log_p(base, *chosen).sum() - token_log_p(base, *rejected).sum()
            margins.append(good.sum() - bad.sum() - before)
            chosen_tokens.append(good)
    expected = (
        -F.logsigmoid(0.3 * torch.stack(margins)).mean() - 0.7 * torch.cat(chosen_tokens).mean()
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_round_of_dpo_prefers_what_was_right(drawn, random_checkpoint, problems, tmp_path):
    config = replace(CONFIG, objective="dpo")
    training = FinetuneConfig(steps=10, batch_size=4, warmup=0.0)
    folder = train_vista_round(
        random_checkpoint, problems, drawn, tmp_path / "dpo", config, training
    )
    before, after = (load_mllm(one, dtype=torch.float32) for one in (random_checkpoint, folder))
    rows = training_rows(drawn, config, training)
    ids = {(row.item, row.number): row.ids for row in drawn.responses.itertuples()}
    by_id = {problem.id: problem for problem in problems}
    with torch.no_grad():
        margins = [
            sum(
                sign * float(token_log_p(mllm, by_id[row.item], ids[row.item, number]).sum())
                for sign, number in ((1, row.chosen), (-1, row.rejected))
            )
            for mllm in (before, after)
            for row in rows.itertuples()
        ]
    assert sum(margins[len(rows) :]) > sum(margins[: len(rows)])
    with pytest.raises(TrainingError, match="Att-CoT terms are defined"):
        training_rows(drawn, config, replace(training, attcot=AttCoTConfig(lambda_vis=1.0)))


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_round_that_ends_in_no_model_is_not_saved(
    drawn, random_checkpoint, problems, tmp_path, objective
):
    config = replace(CONFIG, objective=objective)
    training = FinetuneConfig(steps=1, batch_size=2, warmup=0, learning_rate=1e39)
    with pytest.raises(TrainingError, match="hold NaN or infinity after step 1"):
        train_vista_round(random_checkpoint, problems, drawn, tmp_path / "tuned", config, training)
    still = replace(training, warmup=0.9, learning_rate=1e-3)
    with pytest.raises(TrainingError, match="Every weight is as it was"):
        train_vista_round(random_checkpoint, problems, drawn, tmp_path / "tuned", config, still)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("name", ARMS)
def test_the_shipped_arms_are_what_they_are_called(name):
    arm = read_arm(name)
    config = vista_config(arm.options)
    assert arm.recipe == "vista" and f"vista_{config.objective}" in name
    assert config.extra == ("plain" if name.endswith("plain") else "prefix")
    assert config.vas != name.endswith("no_vas")
    same_but = {"objective", "learning_rate", "extra", "vas", "control"}
    other = read_arm("vista_sft").options
    assert {k: v for k, v in arm.options.items() if k not in same_but} == {
        k: v for k, v in other.items() if k not in same_but
    }


def test_an_arm_of_the_recipe_is_run_with_its_options(monkeypatch, problems, tmp_path):
    calls = []
    monkeypatch.setattr(vista, "run_vista", lambda *args, **options: calls.append((args, options)))
    settings = {"title": "V", "about": "Few.", "recipe": "vista", "options": {"rounds": 1}}
    train_arm(arm_of("few", settings), "base", problems, tmp_path, TRAINING, save_every=10)
    ((_, _, _, config, training), options) = calls[0]
    assert config == VistaConfig(rounds=1) and training.mode == "cot"
    assert options["save_every"] == 10 and options["siblings"] == []
    with pytest.raises(TrainingError, match="'direct' has none of"):
        vista._check(problems, tmp_path / "new", replace(TRAINING, mode="direct"))
