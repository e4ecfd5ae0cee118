"""Where the candidates of forced answers are read, and how their probabilities add up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attcot_analysis.attention.candidates import CandidateTree


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
    """

    name: str
    steps: tuple[int, ...]
    rows: Tensor
    edge_rows: Tensor
    edge_tokens: Tensor
    paths: Tensor

    def to(self, device: torch.device) -> "Readout":
        """The same with its tensors on another device."""
        return Readout(
            self.name,
            self.steps,
            self.rows.to(device),
            self.edge_rows.to(device),
            self.edge_tokens.to(device),
            self.paths.to(device),
        )

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
