"""`AttCoTTerms`: both Att-CoT terms of a batch, from one forward pass of whatever trainer runs it.

The forward pass needs a few things that trainers know nothing of: branches behind the sequences,
their mask and positions, and the probe. They are put in, and the branches' last hidden states taken
out, by hooks on the model's backbone (the model without its output head), which every trainer
calls, also where PEFT wraps the model or TRL replaces the head. Trainer and head see the batch
that the collator made, and nothing behind it.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from attcot_analysis.attention.hook import NAME, attached
from attcot_analysis.attention.packing import Packed, forced_answers, pack
from attcot_analysis.attention.probe import Probe
from attcot_analysis.attention.sinks import SinkFinder, SinkRule
from attcot_analysis.errors import TrainingError, check_numbers
from attcot_analysis.models import Mllm, evaluating
from attcot_analysis.models.inputs import last_row
from attcot_analysis.problems import Problem
from attcot_analysis.train.data import (
    IGNORED,
    Example,
    RationaleDataset,
    collate_examples,
    forced_candidates,
    probe_rows,
)
from attcot_analysis.train.objective import (
    AttCoTConfig,
    readable_layers,
    visual_access_loss,
    visual_mass,
)


@dataclass(eq=False)
class Batch:
    """One batch on its way through the model.

    Attributes:
        inputs: What the trainer gives to the model, as it came.
        examples: The items.
        steps: Per item the k whose forced answers are read.
        extra: What the backbone gets beside, or instead of, the trainer's inputs.
        packed: The branches, if there are any.
        probe: Collects masses, if they are wanted.
        groups: ``(B, R)`` the key group that each probed row belongs to.
        rows: ``(B, R)`` the probed rows, -1 for none.
        sinks: Finds the tokens that do not count as image, if any do not.
        hidden: The backbone's last hidden states at the rows of ``packed.joint``, ``(N, d)``,
            once it has run.
    """

    inputs: dict[str, Any]
    examples: Sequence[Example]
    steps: list[tuple[int, ...]]
    extra: dict[str, Any] = field(default_factory=dict)
    packed: Packed | None = None
    probe: Probe | None = None
    groups: Tensor | None = None
    rows: Tensor | None = None
    sinks: SinkFinder | None = None
    hidden: Tensor | None = None


def commitment_loss(
    log_probs: Sequence[Tensor],
    steps: Sequence[Sequence[int]],
    n_steps: Sequence[int],
    answers: Sequence[int],
    config: AttCoTConfig,
) -> Tensor:
    """L_commit: forced answers that are already fixed early in the rationale.

    Args:
        log_probs: Per item ``(n_k, n_candidates)`` from `attcot_analysis.attention.packing`.
        steps: Per item the k of each row of `log_probs`, ascending.
        n_steps: Per item K.
        answers: Per item the index of the right answer among its candidates.
        config: Form and margin.

    Returns:
        fp32 scalar, the mean over items of the mean over their early steps.
    """
    p, real, done = _stacked(log_probs, steps, n_steps)
    if config.commit_form == "confidence":
        fixed = p.amax(dim=-1)
        n_candidates = [scores.shape[1] for scores in log_probs]
        chance = 1 / torch.tensor(n_candidates, dtype=p.dtype, device=p.device)
        start = (chance + config.commit_margin).clamp(max=1)[:, None]
    else:
        right = torch.tensor(answers, device=p.device)[:, None, None]
        fixed = p.gather(2, right.expand(-1, p.shape[1], 1))[..., 0]
        start = fixed[:, :1].detach()
    own = config.commit_form == "answer"
    rising = own if config.commit_margins is None else config.commit_margins == "rising"
    falling = own if config.commit_weights is None else config.commit_weights == "falling"
    margin = start + (1 - start) * done if rising else start
    # Unlike clamp, relu has no gradient at 0, where p_0 stands against the margin it sets itself.
    excess = torch.relu(fixed - margin)
    excess = (1 - done) * excess if falling else excess
    return ((excess * real).sum(1) / real.sum(1)).mean()


@torch.no_grad()
def commitment_notes(
    log_probs: Sequence[Tensor],
    steps: Sequence[Sequence[int]],
    n_steps: Sequence[int],
    answers: Sequence[int],
) -> dict[str, Tensor]:
    """What to log about forced answers, as means over items; arguments as of `commitment_loss`.

    Returns:
        ``early_confidence``, the largest candidate probability at the first k; and
        ``commitment_position``, the first k, over K, from which on the forced answer is the right
        one at all k read; 1 where it is not at the last of them.
    """
    p, real, done = _stacked(log_probs, steps, n_steps)
    right = torch.tensor(answers, device=p.device)[:, None]
    wrong = (p.argmax(-1) != right) & (real > 0)
    # 0 if none is wrong, else one past the last that is.
    first = (wrong * torch.arange(1, p.shape[1] + 1, device=p.device)).amax(1, keepdim=True)
    never = first[:, 0] == real.sum(1)
    settled = done.gather(1, first.clamp(max=p.shape[1] - 1))[:, 0]
    return {
        "early_confidence": p[:, 0].amax(-1).mean(),
        "commitment_position": torch.where(never, 1.0, settled).mean(),
    }


def _stacked(
    log_probs: Sequence[Tensor], steps: Sequence[Sequence[int]], n_steps: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates' probabilities ``(B, n_k, C)``, which k are real ``(B, n_k)``, and their k/K."""
    longest = max(len(scores) for scores in log_probs)
    widest = max(scores.shape[1] for scores in log_probs)
    padded = [
        F.pad(
            F.pad(scores, (0, widest - scores.shape[1]), value=-torch.inf),
            (0, 0, 0, longest - len(scores)),
        )
        for scores in log_probs
    ]
    p = torch.stack(padded).float().softmax(dim=-1)
    k = [[*own, *[-1] * (longest - len(own))] for own in steps]
    places = torch.tensor(k, dtype=p.dtype, device=p.device)
    total = torch.tensor(n_steps, dtype=p.dtype, device=p.device)[:, None]
    return p, (places >= 0).to(p.dtype), places.clamp(min=0) / total


NOTES = ("visual_mass", "loss_vis", "early_confidence", "commitment_position", "loss_commit")
"""What is logged of a batch, by name; see `AttCoTTerms.loss`."""

_UNSEEN = 32
"""After so many items without a row that counts, the visual term is taken for misconfigured."""


@dataclass(frozen=True, eq=False)
class AttCoTTerms:
    """Computes λ_vis · L_vis + λ_commit · L_commit, and what to log about them.

    Attributes:
        mllm: The model as `transformers` knows it, whatever wraps it while it trains.
        config: The objective.
        layers: The layers whose attention L_vis reads: those of the objective that have full
            attention, because most image tokens are out of a sliding window's sight.

    Raises:
        TrainingError: If the objective names layers or heads the model does not have, or none
            of its layers can be read.
    """

    mllm: Mllm
    config: AttCoTConfig
    layers: tuple[int, ...] = field(init=False)
    _unseen: list[int] = field(init=False, repr=False, default_factory=lambda: [0])

    def __post_init__(self) -> None:
        """Check the objective against the model."""
        object.__setattr__(self, "layers", readable_layers(self.mllm, self.config))

    def prepare(self, inputs: Mapping[str, Any], examples: Sequence[Example]) -> Batch:
        """Plan branches behind a collated batch and set up the probe.

        Call it, run the model and go backward inside `attcot_analysis.attention.hook.attached`.

        Args:
            inputs: Model inputs with ``labels``, right-padded.
            examples: Its items, in the same order.

        Raises:
            TrainingError: If inputs and examples do not hold the same tokens, or L_vis finds no
                rows to count in many items after one another.
        """
        self._check(inputs, examples)
        steps = [self.config.early_steps(len(e.encoded.layout.steps)) for e in examples]
        batch = Batch(dict(inputs), examples, steps)
        if self.config.lambda_commit > 0:
            self._add_branches(batch)
        if self.config.lambda_vis > 0:
            self._add_probe(batch)
        return batch

    @contextlib.contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """Let one forward pass of the model be that of this batch; the first one counts."""

        def before(
            _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, **batch.extra}

        def after(_module: Any, _args: tuple[Any, ...], output: Any) -> Any:
            if batch.packed is None:
                return output
            states = output.last_hidden_state
            if batch.hidden is None:
                batch.hidden = states[batch.packed.joint.items, batch.packed.joint.rows]
            output.last_hidden_state = states[:, : batch.packed.base_length]
            return output

        backbone = self.mllm.model.base_model
        with contextlib.ExitStack() as hooks:
            hooks.callback(backbone.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(backbone.register_forward_hook(after).remove)
            if batch.sinks is not None:
                hooks.enter_context(batch.sinks.watching())
            yield

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted terms of a batch that has run, and values to log.

        Returns:
            fp32 scalar, a mean over items; and ``visual_mass``, ``loss_vis``,
            ``early_confidence`` (largest candidate probability at the first k),
            ``commitment_position`` (the first k, over K, from which on the forced answer is the
            right one at all k read; 1 where it is not) and ``loss_commit``, as far as computed.

        Raises:
            TrainingError: If a term is not finite, or has lost its gradient.
        """
        notes: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.inputs["input_ids"].device)
        # Autocast would turn the terms' arithmetic back into bf16.
        with torch.autocast(total.device.type, enabled=False):
            if batch.probe is not None:
                total = total + self.config.lambda_vis * self._visual_access(batch, notes)
            if batch.packed is not None:
                total = total + self.config.lambda_commit * self._commitment(batch, notes)
        notes = {name: value.detach() for name, value in notes.items()}
        terms = [name for name in ("loss_vis", "loss_commit") if name in notes]
        if terms and not bool(torch.stack([notes[name] for name in terms]).isfinite().all()):
            values = ", ".join(f"{name} is {float(notes[name])}" for name in terms)
            raise TrainingError(
                f"A term is not finite ({values}); lower the learning rate or train in bf16 or "
                "fp32, and resume from the last checkpoint."
            )
        return total, notes

    def row_masses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What L_vis is computed from.

        Args:
            batch: One that has run, and in which some row counts.

        Returns:
            ``(B, R)`` fp32, the mass of each row on its region; and bool, the rows that count.

        Raises:
            TrainingError: If the batch has no probe, or a layer did not attend.
            MeasureError: If masses have lost their gradient, or there are none.
        """
        if batch.probe is None or batch.groups is None or batch.rows is None:
            raise TrainingError("The batch was prepared without a probe.")
        by_layer = batch.probe.masses(differentiable=self._trains)
        missing = set(self.layers) - by_layer.keys()
        if missing:
            raise TrainingError(
                f"Layers {sorted(missing)} did not attend in the forward pass, so that L_vis "
                "cannot read them; name other vis_layers."
            )
        groups = batch.groups[:, None, :, None]
        masses = {
            layer: one.gather(3, groups.expand(-1, one.shape[1], -1, -1))[..., 0]
            for layer, one in by_layer.items()
        }
        return visual_mass(masses, self.config), batch.rows >= 0

    def _check(self, inputs: Mapping[str, Any], examples: Sequence[Example]) -> None:
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        own = [example.encoded.input_ids for example in examples]
        expected = torch.full((len(own), max(ids.shape[1], *map(len, own))), IGNORED)
        for row, tokens in enumerate(own):
            expected[row, : len(tokens)] = tokens
        # One comparison for all, so that a device is waited for once.
        if not torch.equal(ids.masked_fill(~mask, IGNORED), expected.to(ids)):
            for example, tokens, row, real in zip(examples, own, ids, mask, strict=True):
                if not torch.equal(row[real].cpu(), tokens) or not bool(real[: len(tokens)].all()):
                    raise TrainingError(
                        f"Item {example.name}: the batch holds other tokens than its layout was "
                        f"made for ({int(real.sum())} and {len(tokens)}); use max_length=None, no "
                        "packing, no padding-free batches, and right padding."
                    )
        key = self.mllm.family.token_types
        if key is not None and key not in inputs:
            raise TrainingError(
                f"The batch lacks {key}, so the model would place its image tokens wrongly; use "
                "a collator that passes on everything the processor returns."
            )

    def _add_branches(self, batch: Batch) -> None:
        packed = pack(
            self.mllm,
            [example.encoded for example in batch.examples],
            forced_candidates(batch.examples),
            steps=batch.steps,
            names=[example.name for example in batch.examples],
            batch={k: v for k, v in batch.inputs.items() if k != "labels"},
            apart=self.mllm.text_config._attn_implementation == NAME,
        )
        batch.extra |= {k: v for k, v in packed.inputs.items() if v is not batch.inputs.get(k)}
        batch.packed = packed

    def _add_probe(self, batch: Batch) -> None:
        mask = batch.inputs["attention_mask"]
        rows, groups, cols = probe_rows(
            batch.examples,
            evidence=self.config.vis_region == "evidence",
            question=self.config.vis_rows == "question",
        )
        if not bool((rows >= 0).any()):
            self._note_unseen(len(rows))
            return
        self._unseen[0] = 0
        cols = F.pad(cols, (0, 0, 0, mask.shape[1] - cols.shape[1])).to(mask.device)
        sinks = None
        if self.config.vis_region == "sink_free":
            batch.sinks = sinks = SinkFinder(self.mllm, SinkRule(), mask, self.layers)

        def layer_cols(layer: int, _given: Tensor) -> Tensor:
            # Columns that travel as arguments are rounded by FSDP's mixed precision; these are not.
            return cols if sinks is None else cols.masked_fill(sinks.tokens[layer][..., None], 0)

        batch.probe = Probe(self.layers, layer_cols=layer_cols)
        batch.groups, batch.rows = groups.to(mask.device), rows.to(mask.device)
        batch.extra |= {
            "attcot_probe": batch.probe,
            "attcot_rows": batch.rows,
            "attcot_cols": cols,
        }

    def _note_unseen(self, items: int) -> None:
        """Some items may have no rows that count; that none has is a mistake."""
        self._unseen[0] += items
        if self._unseen[0] >= _UNSEEN:
            what = "evidence boxes" if self.config.vis_region == "evidence" else "rationale steps"
            raise TrainingError(
                f"None of the last {self._unseen[0]} items has {what}, so that the visual term "
                "trains nothing; give items that have them or set lambda_vis=0."
            )

    def _visual_access(self, batch: Batch, notes: dict[str, Tensor]) -> Tensor:
        mass, counted = self.row_masses(batch)
        loss = visual_access_loss(mass, counted, self.config)
        notes["visual_mass"] = (mass.detach() * counted).sum() / counted.sum()
        notes["loss_vis"] = loss
        return loss

    def _commitment(self, batch: Batch, notes: dict[str, Tensor]) -> Tensor:
        if batch.packed is None or batch.hidden is None:
            raise TrainingError(
                f"{type(self.mllm.model).__name__} did not run its backbone, so there is nothing "
                "to read forced answers from; use a model class of transformers."
            )
        if self._trains and not batch.hidden.requires_grad:
            raise TrainingError(
                "The forced answers carry no gradient, so that loss_commit would train nothing; "
                "train without reentrant gradient checkpointing, and not the output head alone."
            )
        log_probs = batch.packed.joint.log_probs(head_logits(self.mllm, batch.hidden))
        n_steps = [len(example.encoded.layout.steps) for example in batch.examples]
        answers = [example.answer for example in batch.examples]
        loss = commitment_loss(log_probs, batch.steps, n_steps, answers, self.config)
        notes |= commitment_notes(log_probs, batch.steps, n_steps, answers)
        notes["loss_commit"] = loss
        return loss

    @property
    def _trains(self) -> bool:
        return bool(self.mllm.model.training) and torch.is_grad_enabled()


def head_logits(mllm: Mllm, hidden: Tensor) -> Tensor:
    """What the output head makes of hidden states, in fp32; FSDP2 keeps its weight in parts.

    Args:
        mllm: The model.
        hidden: ``(N, d)`` what its backbone put out, final norm included.

    Returns:
        ``(N, V)``.
    """
    head = mllm.model.get_output_embeddings()
    hidden = hidden.to(head.weight.dtype)
    if isinstance(head.weight, DTensor):
        bias = None if head.bias is None else head.bias.full_tensor()
        logits = F.linear(hidden, head.weight.full_tensor(), bias).float()
    else:
        logits = head(hidden).float()
    cap = getattr(mllm.text_config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def visual_target(
    mllm: Mllm,
    problems: Sequence[Problem],
    config: AttCoTConfig | None = None,
    *,
    quantile: float = 0.75,
    batch_size: int = 16,
) -> float:
    """A quantile of the visual mass of items that a model answers right, for ``vis_target``.

    How much a model looks differs by an order of magnitude between models, so that one target
    for all is out of reach for some and no target for others. The items' own rationales are
    given, and an item is answered right if its forced answer behind them is. Reconstruction: the
    quantile, and that the untrained model is asked.

    Args:
        mllm: The model before fine-tuning.
        problems: Items with rationale steps; some dozens will do.
        config: Which layers, heads, rows and region; default ``AttCoTConfig()``.
        quantile: Of the items' mean masses, 0 to 1.
        batch_size: Items per forward pass.

    Raises:
        TrainingError: If no item is answered right, or none has rows that count.
    """
    check_numbers(batch_size=batch_size, quantile=quantile)
    terms = AttCoTTerms(mllm, replace(config or AttCoTConfig(), lambda_vis=1.0, lambda_commit=0.0))
    data = RationaleDataset(mllm, problems)
    right: list[float] = []
    with evaluating(mllm.model), attached(mllm.model):
        for start in range(0, len(data), batch_size):
            examples = [data[at] for at in range(start, min(start + batch_size, len(data)))]
            collated = collate_examples(mllm, examples)
            inputs = {
                key: value.to(mllm.device)
                for key, value in collated.items()
                if isinstance(value, Tensor) and key != "labels"
            }
            answers = forced_answers(
                mllm,
                [one.encoded for one in examples],
                forced_candidates(examples),
                steps=[[len(one.encoded.layout.steps)] for one in examples],
            )
            batch = terms.prepare(inputs, examples)
            if batch.probe is None:
                continue
            with terms.running(batch):
                mllm.model(**batch.inputs, use_cache=False, logits_to_keep=last_row(batch.inputs))
            mass, counted = terms.row_masses(batch)
            means = (mass * counted).sum(1) / counted.sum(1)
            right += [
                float(mean)
                for mean, rows, scores, one in zip(means, counted, answers, examples, strict=True)
                if rows.any() and int(scores[-1].argmax()) == one.answer
            ]
    if not right:
        raise TrainingError(
            f"Of {len(problems)} items none with rows that count is answered right, so that there "
            "is no mass to take a target from; give more or easier items."
        )
    return float(np.quantile(right, quantile))
