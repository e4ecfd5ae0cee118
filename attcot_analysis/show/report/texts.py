"""The report's standing texts: how things are measured, and what no number here can show."""

METHODS: tuple[tuple[str, str], ...] = (
    (
        "Answers",
        "Every model answers every item greedily three times: with a rationale, directly, and with "
        "a rationale but without the picture. An answer counts where one candidate can be told "
        "from it.",
    ),
    (
        "Commitment",
        "After each step of the model's own rationale the answer is forced, and the probabilities "
        "of all candidates are read. The final answer is the most probable one after the last "
        "step; an item has settled at the first step from which on it stays the most probable. "
        "Curves leave out items whose rationale has another number of steps than most.",
    ),
    (
        "Visual access",
        "The softmax attention of the rows that predict the rationale's tokens, summed over all "
        "image tokens, mean over rows, heads and layers. Evidence boxes are the parts of the "
        "picture that a step must be read from.",
    ),
    (
        "Dependence",
        "The picture is edited and the model asked again: the twin is the smallest edit that "
        "changes the right answer, the control an edit of the same size that must not. "
        "Regenerated: the model writes a new rationale. Fixed: its old one is kept, and only the "
        "answer is forced.",
    ),
    (
        "Statistics",
        "Intervals are 95% bootstrap intervals over items, crossed with training seeds where there "
        "are several (then the wider one of bootstrap and crossed t interval). Differences are "
        "paired: second minus first on the same items. With several training seeds p values are "
        "of a t test on seeds × items, so that they speak about new seeds and items as the "
        "intervals do; two seeds are too few for one. With one run of each they are of McNemar's "
        "exact test for yes-or-no outcomes, else of a sign-flip permutation test; they and the "
        "intervals then speak about other items and these very checkpoints, and training again "
        "might differ by more. p (Holm) is corrected for the number of metrics of the pair. In "
        "simulations a 95% interval held the true value in 87 of 100 cases with two seeds and "
        "92 with three where seeds differ much, and in 95 or more where they hardly do.",
    ),
)
"""How the metrics of every report are measured."""

LIMITS: tuple[str, ...] = (
    "Attention is not evidence: a model can look without using what it sees. Read visual access "
    "beside dependence, which changes the picture and watches the answer.",
    "Intervals are 95% intervals over test items, and over training seeds where there are "
    "several. Verdicts are not corrected for the number of metrics: of twenty true zeros, about "
    "one is expected to look decided. Where a table has a column p (Holm), that one is corrected.",
    "Undecided means that the interval holds zero. It is no evidence that there is no difference.",
)
"""Limits that hold for every report."""

TESTBED_LIMITS: tuple[str, ...] = (
    "Att-CoT's formulas are a reconstruction: the paper's own were not available to us. "
    "A result here is about the reconstruction, not about the paper's method.",
    "The testbed is tiny: a small model, generated pictures, a narrow question form. It shows "
    "whether a diagnostic or a cure does what it should where the truth is known; it does not "
    "show that a large model on photographs behaves the same.",
    *LIMITS,
)
"""Limits of what is shown on the testbed with models that were trained on it."""

PAIR_LIMITS: tuple[str, ...] = (
    "The two runs differ in everything in which their checkpoints differ. A difference is due to "
    "one thing (an objective, a data set) only if that is all they differ in.",
    *LIMITS,
)
"""Limits of a comparison of two runs."""
