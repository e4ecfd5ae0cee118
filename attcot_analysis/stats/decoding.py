"""Labels read off vectors by ridge classifiers, each item by one that has not seen it."""

import numpy as np
import numpy.typing as npt

from attcot_analysis.stats.intervals import FloatArray

IntVector = npt.NDArray[np.int64]

STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Ridge penalties to choose from, relative to the mean square of a standardised state."""


def fold_numbers(labels: IntVector, folds: int, seed: int) -> IntVector:
    """Cut items into folds that hold each label's share: ``(n,)``, from 0."""
    order = np.random.default_rng(seed).permutation(len(labels))
    ranked = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(len(labels), dtype=np.int64)
    found[ranked] = np.arange(len(labels)) % folds
    return found


def decoded(states: FloatArray, labels: IntVector, folds: IntVector, n_labels: int) -> IntVector:
    """Labels of items read off their states by ridge classifiers trained on the other folds.

    Args:
        states: ``(n, d)``.
        labels: Numbers from 0, ``(s, n)``: several labellings of the same items.
        folds: ``(n,)``, from 0.
        n_labels: How many labels there are.

    Returns:
        ``(s, n)``.
    """
    found = np.empty_like(labels)
    for fold in np.unique(folds):
        test = folds == fold
        mean, spread = states[~test].mean(0), states[~test].std(0)
        scaled = (states - mean) / np.where(spread > 0, spread, 1.0) / np.sqrt(states.shape[1])
        # In the dual: there are more dimensions than items.
        values, vectors = np.linalg.eigh(scaled[~test] @ scaled[~test].T)
        across = scaled[test] @ scaled[~test].T @ vectors
        for number, own in enumerate(labels[:, ~test]):
            target = np.eye(n_labels)[own]
            centre = target.mean(0)
            turned, best = vectors.T @ (target - centre), (np.inf, 0.0)
            for strength in STRENGTHS:
                shrunk = 1 / (values.clip(min=0) + strength)
                # Residuals of leave-one-out, in closed form.
                left = (vectors @ (shrunk[:, None] * turned)) / ((vectors**2) @ shrunk)[:, None]
                best = min(best, (float((left**2).sum()), strength))
            scores = across @ (turned / (values.clip(min=0) + best[1])[:, None]) + centre
            found[number, test] = scores.argmax(1)
    return found
