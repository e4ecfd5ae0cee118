"""Problems: questions about pictures, with steps, evidence boxes and counterfactual edits."""

from attcot_analysis.problems.arrows import ArrowsConfig, generate_arrows
from attcot_analysis.problems.charts import ChartsConfig, generate_charts
from attcot_analysis.problems.counting import CountingConfig, generate_counting
from attcot_analysis.problems.folder import load_problems, save_problems
from attcot_analysis.problems.kinds import KINDS, generate_problems
from attcot_analysis.problems.problem import Box, Edit, Problem, Step
from attcot_analysis.problems.response import (
    ANSWER_CUE,
    ParsedResponse,
    parse_response,
    render_response,
)

__all__ = [
    "ANSWER_CUE",
    "KINDS",
    "ArrowsConfig",
    "Box",
    "ChartsConfig",
    "CountingConfig",
    "Edit",
    "ParsedResponse",
    "Problem",
    "Step",
    "generate_arrows",
    "generate_charts",
    "generate_counting",
    "generate_problems",
    "load_problems",
    "parse_response",
    "render_response",
    "save_problems",
]
