"""Values of a made-up grid whose true effects are known."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

MODELS = {
    f"{family}-{scale}": (family, scale)
    for family in ("qwen2_5_vl", "internvl", "llava")
    for scale in ("small", "large")
}
KINDS = ("arrows", "charts", "counting")


def grid_values(
    means: Mapping[tuple[str, str], float],
    *,
    models: Sequence[str] = tuple(MODELS),
    kinds: Sequence[str] = KINDS,
    seeds: int = 3,
    items: int = 40,
    spread: float = 0.2,
    by_seed: float = 0.0,
    rng: int = 0,
    moved: Mapping[tuple[str, str, str], float] | None = None,
) -> pd.DataFrame:
    """One value per item, seed, arm and metric: mean, item, seed of arm, and noise.

    Args:
        means: (arm, metric) → true mean.
        models: Of `MODELS`.
        kinds: Of `KINDS`.
        seeds: Training seeds of every arm but base.
        items: Per kind.
        spread: Standard deviation of the noise, and of the items' own part.
        by_seed: Standard deviation of a training seed's part.
        rng: Seed of the draws.
        moved: (model, kind, arm) → what is added to its values.
    """
    random = np.random.default_rng(rng)
    rows, values = [], []
    for kind in kinds:
        own = random.normal(0, spread, items)
        for model in models:
            for arm in dict.fromkeys(arm for arm, _ in means):
                for seed in range(1 if arm == "base" else seeds):
                    shift = random.normal(0, by_seed) if by_seed and arm != "base" else 0.0
                    shift += (moved or {}).get((model, kind, arm), 0.0)
                    for (one, metric), mean in means.items():
                        if one == arm:
                            rows.append((model, *MODELS[model], kind, arm, seed, metric))
                            values.append(mean + shift + own + random.normal(0, spread, items))
    names = ["model", "family", "scale", "kind", "arm", "seed", "metric"]
    table = pd.DataFrame(rows, columns=names)
    table = table.loc[table.index.repeat(items)].reset_index(drop=True)
    numbers = np.tile([f"-test-{at:03d}" for at in range(items)], len(rows))
    return table.assign(item=table["kind"] + pd.Series(numbers), value=np.concatenate(values))
