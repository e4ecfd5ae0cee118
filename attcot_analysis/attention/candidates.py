"""Candidate answers as tokens: what a forced answer must hold to tell them apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm, token_starts
from attcot_analysis.problems.formats import ResponseFormat
from attcot_analysis.problems.response import ANSWER_CUE


@dataclass(frozen=True)
class CandidateTokens:
    """Candidate answers behind an answer cue, as a token tree.

    Attributes:
        candidates: The candidate strings.
        shared: Tokens that the cue and every candidate have in common; never empty.
        tails: Per candidate all further tokens, those of the closing tag included. Their joint
            probability is the probability of the candidate's text, wherever the tokenizer cuts:
            in ``<answer>Yes`` and ``<answer>No`` one that joins ``>No`` asks for ``>`` and
            ``Yes`` in the one case and for ``>No`` in the other, and ``>`` alone is no answer.
        cue: The text that asks for the answer.
        ends: Per candidate how many tokens of its tail lie before the end of its own text, and
            what of the text the next token holds beside a part of the closing tag (``.`` of
            ``.</``; mostly nothing). Only the reading without the tag needs them, and has to do
            without a text that ends inside of what is shared.

    Raises:
        MeasureError: If fewer than two candidates are given, their numbers differ, ``shared``
            is empty, or one tail equals or begins another.
    """

    candidates: tuple[str, ...]
    shared: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]
    cue: str = ANSWER_CUE
    ends: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        """Check that the tails tell the candidates apart."""
        if len(self.candidates) < 2 or len(self.tails) != len(self.candidates):
            raise MeasureError(
                f"Got {len(self.candidates)} candidates and {len(self.tails)} token tails; "
                "give at least two candidates and one tail each."
            )
        if not self.shared:
            raise MeasureError(
                f"Candidates {list(self.candidates)} share no token with each other; put an "
                "answer cue before them."
            )
        for at, tail in enumerate(self.tails):
            for other in range(at):
                if _common(tail, self.tails[other]) == min(len(tail), len(self.tails[other])):
                    raise MeasureError(
                        f"Candidates {self.candidates[other]!r} and {self.candidates[at]!r} "
                        "tokenise ambiguously (one's tokens equal or begin the other's); reword "
                        "one of them."
                    )

    @cached_property
    def tree(self) -> "CandidateTree":
        """The tokens a branch must hold to read every candidate."""
        tokens = list(self.shared)
        parents = list(range(-1, len(self.shared) - 1))
        node_of: dict[tuple[int, ...], int] = {(): len(self.shared) - 1}
        edges: dict[tuple[int, int], int] = {}
        paths = []
        for tail in self.tails:
            path: list[int] = []
            for depth, token in enumerate(tail):
                node = node_of.get(tail[:depth])
                if node is None:
                    node = node_of[tail[:depth]] = len(tokens)
                    tokens.append(tail[depth - 1])
                    parents.append(node_of[tail[: depth - 1]])
                path.append(edges.setdefault((node, token), len(edges)))
            paths.append(tuple(path))
        ends = tuple(
            (node_of[tail[:depth]], depth, rest)
            for tail, (depth, rest) in zip(self.tails, self.ends, strict=False)
            if len(self.ends) == len(self.tails)
        )
        return CandidateTree(tuple(tokens), tuple(parents), tuple(edges), tuple(paths), ends)


@dataclass(frozen=True)
class CandidateTree:
    """What one branch holds, and where each candidate is read in it.

    Attributes:
        tokens: Token of each node: the shared tokens, then tokens that several candidates
            share. When all candidates differ in their first token, only the shared ones.
        parents: Node before each node, ``-1`` for the first.
        edges: ``(node, token)`` pairs: the probability of ``token`` is read at ``node``.
        paths: Per candidate the edges whose log-probabilities add up to its own.
        ends: Per candidate where its text ends: the node, how many edges of its path lie before
            it, and what of the text the next token holds; see `CandidateTokens`.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]
    ends: tuple[tuple[int, int, str], ...] = ()

    @cached_property
    def sees(self) -> npt.NDArray[np.bool_]:
        """Boolean ``(nodes, nodes)``: which nodes each node sees, itself included."""
        sees = np.eye(len(self.tokens), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees

    @cached_property
    def read_nodes(self) -> list[int]:
        """The nodes that an edge is read at, ascending."""
        return sorted({node for node, _ in self.edges})

    @cached_property
    def path_matrix(self) -> Tensor:
        """Float ``(n_candidates, n_edges)``, one where an edge belongs to a candidate."""
        matrix = torch.zeros(len(self.paths), len(self.edges))
        for candidate, path in enumerate(self.paths):
            matrix[candidate, list(path)] = 1.0
        return matrix


def candidate_tokens(
    mllm: Mllm, candidates: Sequence[str], cue: str | None = None, *, first: bool = False
) -> CandidateTokens:
    """Tokenise candidate answers behind the cue that asks for them.

    Each candidate is tokenised as it stands in a response (opening of the rationale, cue,
    candidate, closing tag), so tokens that straddle the cue's end are handled.

    Args:
        mllm: The model whose tokenizer is used.
        candidates: At least two answer strings.
        cue: Text that asks for the answer after a rationale prefix; default the format's.
        first: Whether the response begins with the cue; SentencePiece puts a space there.

    Raises:
        MeasureError: If two candidates are the same tokens.
    """
    form = mllm.format
    cue = form.cue if cue is None else cue

    def made() -> tuple[ResponseFormat, CandidateTokens]:
        return form, _candidate_tokens(mllm, candidates, cue, first)

    if mllm.cache is None:
        return made()[1]
    return mllm.cache.response(("candidates", *candidates, cue, first, id(form)), made)[1]


def _candidate_tokens(
    mllm: Mllm, candidates: Sequence[str], cue: str, first: bool
) -> CandidateTokens:
    form = mllm.format
    sequences = [
        _tokens_inside(mllm, f"{cue}{one}{form.close}", first) for one in form.forced(candidates)
    ]
    n_shared = min((_common(sequences[0], one) for one in sequences[1:]), default=0)
    tails = tuple(tuple(one[n_shared:]) for one in sequences)
    ends = [_text_end(mllm, one, form.close) for one in sequences]
    return CandidateTokens(
        tuple(candidates),
        tuple(sequences[0][:n_shared]),
        tails,
        cue,
        tuple((whole - n_shared, rest) for whole, rest in ends if whole >= n_shared),
    )


def _text_end(mllm: Mllm, ids: Sequence[int], close: str) -> tuple[int, str]:
    """How many tokens end with a text or before, and what of it the next one holds."""
    written, starts = token_starts(mllm.tokenizer, ids)
    end = len(written) - len(close)
    # Tokens that share a character start with it and all end behind it.
    stops = np.append(starts, len(written))[np.searchsorted(starts, starts, side="right")]
    whole = min(int((stops <= end).sum()), len(ids) - 1)
    return whole, written[starts[whole] : end]


def behind(
    mllm: Mllm, tokens: CandidateTokens, text: str, *, first: bool = False
) -> CandidateTokens:
    """The same candidates where a text stands before the cue, whatever tokens the two join into.

    Args:
        mllm: The model.
        tokens: The candidates.
        text: What stands before the cue.
        first: Whether the response begins with that text.

    Raises:
        MeasureError: If the tokenizer cuts the candidates in another way behind that text.
    """
    moved = candidate_tokens(mllm, tokens.candidates, f"{text}{tokens.cue}", first=first)
    if moved.tails != tokens.tails:
        raise MeasureError(
            f"Behind {text!r} the tokenizer cuts the candidates {list(tokens.candidates)} in "
            "another way than behind a line end; end every step of the rationale with a line end."
        )
    return moved


def _tokens_inside(mllm: Mllm, text: str, first: bool) -> list[int]:
    """A text's tokens at the start of a response, or where a token has just ended inside it."""

    def tokens(string: str) -> list[int]:
        return list(mllm.tokenizer(string, add_special_tokens=False)["input_ids"])

    # Behind a line end, since SentencePiece puts a space before whatever begins a text.
    head, whole = tokens("\n"), tokens(f"\n{text}")
    return tokens(text) if first or whole[: len(head)] != head else whole[len(head) :]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    n = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n += 1
    return n


@dataclass(frozen=True)
class Readout:
    """Where one item's candidates are read.

    Attributes:
        name: The item, for error messages.
        steps: The k asked for, ``(n_k,)``.
        rows: Positions in the packed sequence whose logits are needed, long ``(n_k, n_rows)``.
        edge_rows: Which of these rows each edge is read at, long ``(n_edges,)``.
        edge_tokens: Which token each edge reads, long ``(n_edges,)``.
        paths: Float ``(n_candidates, n_edges)``, one where an edge belongs to a candidate.
        tree: The branch of the first k; those of the others differ in what they share only.
    """

    name: str
    steps: tuple[int, ...]
    rows: Tensor
    edge_rows: Tensor
    edge_tokens: Tensor
    paths: Tensor
    tree: CandidateTree

    def to(self, device: torch.device) -> "Readout":
        """The same with its tensors on another device."""
        tensors = ("rows", "edge_rows", "edge_tokens", "paths")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def log_probs(self, logits: Tensor) -> Tensor:
        """Candidates' log-probabilities ``(n_k, n_candidates)`` in fp32, differentiable.

        Args:
            logits: At ``rows``, ``(n_k, n_rows, V)``.
        """
        read = logits.float()
        total = torch.logsumexp(read, dim=-1)
        edges = read[:, self.edge_rows, self.edge_tokens] - total[:, self.edge_rows]
        # Autocast would multiply in bf16.
        with torch.autocast(logits.device.type, enabled=False):
            return edges @ self.paths.T

    def text_log_probs(self, logits: Tensor, tokenizer: Any) -> Tensor:
        """Log-probabilities of the candidates' texts without the closing tag, ``(n_k, n)`` in fp64.

        That of the tokens of the text, and of whatever follows them but a letter or a digit, which
        would make another word of it (``1`` of ``12``). A token that holds the text's end and a
        part of the closing tag is replaced by all tokens that hold that end and no letter or
        digit behind it. A text that begins with several candidates (``blue green``) counts for
        the longest.

        Args:
            logits: At ``rows``, ``(n_k, n_rows, V)``.
            tokenizer: The model's, which says what each of the V tokens writes.

        Raises:
            MeasureError: If a candidate is another with a part of the closing text behind it.
        """
        if len(self.tree.ends) != len(self.tree.paths):
            raise MeasureError(
                f"Item {self.name}: one candidate is another with a part of the closing text "
                "behind it, so where its text ends is not read; reword it."
            )
        read = logits.float()
        total = torch.logsumexp(read, dim=-1)
        edges = read[:, self.edge_rows, self.edge_tokens] - total[:, self.edge_rows]
        rows = {node: row for row, node in enumerate(self.tree.read_nodes)}
        found = []
        for (node, depth, rest), path in zip(self.tree.ends, self.tree.paths, strict=True):
            ids = torch.from_numpy(_ending(tokenizer, rest)).to(read.device)
            ids = ids[ids < read.shape[-1]]
            over = torch.logsumexp(read[:, rows[node], ids], dim=-1) - total[:, rows[node]]
            found.append((edges[:, list(path[:depth])].sum(-1) + over).double())
        # Longer ones first, so that each is taken off once from those that it begins with.
        own: dict[int, Tensor] = {}
        for at in sorted(range(len(found)), key=lambda one: self._length(one), reverse=True):
            longer = [own[other] for other in own if self._inside(other, at, tokenizer)]
            share = torch.stack([one - found[at] for one in longer]).exp().sum(0) if longer else 0.0
            left = torch.as_tensor(1.0 - share, dtype=torch.float64).clamp(min=1e-7)
            own[at] = found[at] + left.log().to(found[at].device)
        return torch.stack([own[at] for at in range(len(found))], dim=-1)

    def _length(self, at: int) -> tuple[int, int]:
        _, depth, rest = self.tree.ends[at]
        return depth, len(rest)

    def _inside(self, longer: int, shorter: int, tokenizer: Any) -> bool:
        """Whether every text that counts for one candidate begins with another as well."""
        tree = self.tree
        (_, deep, more), (_, depth, rest) = tree.ends[longer], tree.ends[shorter]
        path = tree.paths[longer]
        if path[:depth] != tree.paths[shorter][:depth]:
            return False
        next_tokens = _ending(tokenizer, more) if deep == depth else [tree.edges[path[depth]][1]]
        return bool(np.isin(next_tokens, _ending(tokenizer, rest)).all())


@lru_cache(maxsize=8)
def _pieces(tokenizer: Any) -> tuple[str, ...]:
    """What each token of a vocabulary writes inside a text."""
    # SentencePiece leaves out the space that begins a text, so something stands before each.
    head = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    kept = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode(head, **kept))
    every = [[*head, token] for token in range(len(tokenizer))]
    return tuple(text[before:] for text in tokenizer.batch_decode(every, **kept))


@lru_cache(maxsize=256)
def _ending(tokenizer: Any, rest: str) -> npt.NDArray[np.int64]:
    """The tokens that write the rest of a text and no letter or digit right behind it."""
    return np.array(
        [
            token
            for token, piece in enumerate(_pieces(tokenizer))
            if piece.startswith(rest) and not piece[len(rest) : len(rest) + 1].isalnum()
        ],
        dtype=np.int64,
    )


@dataclass(frozen=True, eq=False)
class JointReadout:
    """The readouts of a whole batch as a few tensors, so that it is read at once.

    Attributes:
        items: Which item each row is of, long ``(N,)``.
        rows: Its position in the packed sequence, long ``(N,)``.
        edge_rows: Which of the N rows each edge is read at, long ``(E,)``.
        edge_tokens: Which token each edge reads, long ``(E,)``.
        paths: The edges of each candidate, item after item and k after k, long ``(M, L)``; E
            where a path has fewer edges.
        shapes: Per item ``(n_k, n_candidates)``; their products add up to M.
    """

    items: Tensor
    rows: Tensor
    edge_rows: Tensor
    edge_tokens: Tensor
    paths: Tensor
    shapes: tuple[tuple[int, int], ...]

    def log_probs(self, logits: Tensor) -> list[Tensor]:
        """Per item candidates' log-probabilities ``(n_k, n_candidates)`` in fp32, differentiable.

        Args:
            logits: At the N rows, ``(N, V)``.
        """
        read = logits.float()
        total = torch.logsumexp(read, dim=-1)
        edges = read[self.edge_rows, self.edge_tokens] - total[self.edge_rows]
        every = torch.cat([edges, edges.new_zeros(1)])[self.paths].sum(-1)
        parts = every.split([n_k * n_candidates for n_k, n_candidates in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def readout(
    name: str, ks: Sequence[int], trees: Sequence[CandidateTree], length: int, width: int
) -> Readout:
    """Where an item's candidates are read, on the CPU.

    Args:
        name: The item.
        ks: The steps asked after.
        trees: The branch of each of them.
        length: Position at which branches begin.
        width: How many positions each takes.
    """
    nodes = [tree.read_nodes for tree in trees]
    first = trees[0]
    return Readout(
        name=name,
        steps=tuple(ks),
        rows=length + width * torch.arange(len(ks))[:, None] + torch.tensor(nodes),
        edge_rows=torch.tensor([nodes[0].index(node) for node, _ in first.edges]),
        edge_tokens=torch.tensor([token for _, token in first.edges]),
        paths=first.path_matrix,
        tree=first,
    )


def join(readouts: Sequence[Readout], device: torch.device) -> JointReadout:
    """Put the readouts of a batch together."""
    items, rows, edge_rows, edge_tokens, paths, shapes = [], [], [], [], [], []
    n_rows = n_edges = 0
    # Items often share their candidates, and so the matrix.
    known = {id(one.paths): one.paths for one in readouts}
    longest = max(int(matrix.sum(-1).max()) for matrix in known.values())
    padded = {key: _padded_paths(matrix.numpy(), longest) for key, matrix in known.items()}
    for at, one in enumerate(readouts):
        n_k, per_k = one.rows.shape
        own = padded[id(one.paths)]
        per_step = np.arange(n_k)[:, None]
        items.append(np.full(n_k * per_k, at))
        rows.append(one.rows.numpy().ravel())
        edge_rows.append((n_rows + per_k * per_step + one.edge_rows.numpy()).ravel())
        edge_tokens.append(np.tile(one.edge_tokens.numpy(), n_k))
        moved = n_edges + len(one.edge_tokens) * per_step[..., None] + own
        paths.append(np.where(own < 0, -1, moved).reshape(-1, longest))
        shapes.append((n_k, len(one.paths)))
        n_rows += n_k * per_k
        n_edges += n_k * len(one.edge_tokens)

    def whole(parts: Sequence[npt.NDArray[np.int64]]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    every = np.concatenate(paths)
    return JointReadout(
        whole(items),
        whole(rows),
        whole(edge_rows),
        whole(edge_tokens),
        whole([np.where(every < 0, n_edges, every)]),
        tuple(shapes),
    )


def _padded_paths(matrix: npt.NDArray[np.float32], longest: int) -> npt.NDArray[np.int64]:
    """The edges of each candidate, ``(n_candidates, longest)``, -1 where there are no more."""
    padded = np.full((len(matrix), longest), -1)
    for candidate, path in enumerate(matrix):
        (used,) = path.nonzero()
        padded[candidate, : len(used)] = used
    return padded
