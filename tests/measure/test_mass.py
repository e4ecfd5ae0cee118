"""Masses of consecutive rows, in two calls without a mask, against weights written out."""

import pytest
import torch

from attcot_analysis.attention.probe import group_masses
from benchmarks.bench import sdpa_kernels

SHAPES = [(4, 2, 16, 50, 0, 50, 3), (4, 2, 16, 50, 20, 30, 40), (6, 2, 64, 120, 90, 29, 20)]
"""Heads, key heads, size, tokens, first row, rows, groups."""


def drawn(heads, kv_heads, size, length, groups, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query = 3 * torch.randn(2, heads, length, size, generator=generator)
    key = 3 * torch.randn(2, kv_heads, length, size, generator=generator)
    return query, key, torch.rand(2, length, groups, generator=generator)


def written_out(query, key, cols, rows, scaling):
    weights = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).mT * scaling
    seen = torch.ones(weights.shape[-2:], dtype=torch.bool).tril()
    masses = weights.masked_fill(~seen, float("-inf")).softmax(-1) @ cols[:, None]
    return torch.stack([mass[:, own] for mass, own in zip(masses, rows, strict=True)])


@pytest.mark.parametrize(("heads", "kv_heads", "size", "length", "first", "n", "groups"), SHAPES)
def test_consecutive_rows(heads, kv_heads, size, length, first, n, groups):
    query, key, cols = drawn(heads, kv_heads, size, length, groups)
    rows = torch.arange(first, first + n).expand(2, -1)
    expected = written_out(query, key, cols, rows, 0.3)
    assert torch.allclose(group_masses(query, key, None, cols, rows, 0.3), expected, atol=1e-5)
    if n == length:
        every = group_masses(query, key, None, cols, None, 0.3)
        assert torch.allclose(every, expected, atol=1e-5)


def test_parts_that_outweigh_each_other():
    """All attention before the rows, or all of it on them: neither part may vanish."""
    query, key, cols = drawn(2, 1, 8, 40, 2)
    rows = torch.arange(30, 40).expand(2, -1)
    for boosted in (slice(0, 30), slice(30, 40)):
        strong = key.clone()
        strong[:, :, boosted] *= 40
        expected = written_out(query, strong, cols, rows, 1.0)
        found = group_masses(query, strong, None, cols, rows, 1.0)
        assert found.isfinite().all() and torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "rows",
    [[[5, 6, 8], [5, 6, 8]], [[5, 6, 7], [4, 5, 6]], [[-1, 0, 1], [-1, 0, 1]], [[7, 6, 5]] * 2],
)
def test_other_rows_take_the_way_with_a_mask(rows):
    query, key, cols = drawn(4, 2, 16, 20, 3)
    rows = torch.tensor(rows)
    found = group_masses(query, key, None, cols, rows, 0.3)
    expected = written_out(query, key, cols, rows, 0.3) * (rows >= 0)[:, None, :, None]
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_way_without_a_mask_is_for_measuring_only():
    """It has no gradient for the weight of its parts, so that training must not take it."""
    query, key, cols = drawn(4, 2, 16, 20, 3)
    rows = torch.arange(10, 20).expand(2, -1)
    assert sdpa_kernels(lambda: group_masses(query, key, None, cols, rows)) == "flash x 2"
    query.requires_grad_()
    assert sdpa_kernels(lambda: group_masses(query, key, None, cols, rows)) == "flash x 1"
    cut = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        assert sdpa_kernels(lambda: group_masses(query, key, cut, cols, rows)) == "flash x 1"
