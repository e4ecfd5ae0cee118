"""Measure and train when a multimodal LLM looks, and when it decides.

Four stations, each a package: `problems` -> `models` -> `measure` -> `show`, and `train`, which
optimises what `measure` measures. The main functions are public here::

    import attcot_analysis as ac

    problems = ac.load_problems("data/problems/arrows")
    mllm = ac.load_mllm("Qwen/Qwen2.5-VL-7B-Instruct")       # or a local folder

    # 1. What does it answer, with and without a rationale?
    answers = ac.answer_problems(mllm, problems, mode="cot")
    responses = answers["ids"].tolist()

    # 2. When does it decide?  One row per item, control, step and candidate.
    curve = ac.commitment(mllm, problems, responses)

    # 3. Does it look while it writes?  One row per item, step, layer and head.
    access = ac.visual_access(mllm, problems, responses)

    # 4. Would the answer change if the picture did?
    edits = ac.dependence(mllm, problems, responses)

Every table is a tidy `pandas.DataFrame`. Importing this package is cheap: names are resolved on
first use, so torch is only imported by what needs it.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
