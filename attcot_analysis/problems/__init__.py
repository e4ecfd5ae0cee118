"""Problems: questions about pictures, with steps, evidence boxes and counterfactual edits."""

from attcot_analysis.problems.arrows import ArrowsConfig, generate_arrows
from attcot_analysis.problems.folder import load_problems, save_problems
from attcot_analysis.problems.problem import Box, Edit, Problem, Step
from attcot_analysis.problems.response import (
    ANSWER_CUE,
    ParsedResponse,
    parse_response,
    render_response,
)

__all__ = [
    "ANSWER_CUE",
    "ArrowsConfig",
    "Box",
    "Edit",
    "ParsedResponse",
    "Problem",
    "Step",
    "generate_arrows",
    "load_problems",
    "parse_response",
    "render_response",
    "save_problems",
]
