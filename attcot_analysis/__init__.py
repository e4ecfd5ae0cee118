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

from importlib import import_module

__version__ = "0.1.0"

_MODULE_OF = {
    # errors
    "AttCoTError": "errors",
    "LayoutError": "errors",
    "MeasureError": "errors",
    "ModelError": "errors",
    "NotebookError": "errors",
    "ProblemError": "errors",
    "RunError": "errors",
    "ShowError": "errors",
    "TrainingError": "errors",
    # problems
    "ArrowsConfig": "problems.arrows",
    "Box": "problems.problem",
    "ChartsConfig": "problems.charts",
    "CountingConfig": "problems.counting",
    "DataCheck": "problems.adapters.registry",
    "DataCoverage": "problems.coverage",
    "Edit": "problems.problem",
    "ParsedResponse": "problems.response",
    "Problem": "problems.problem",
    "Step": "problems.problem",
    "check_data": "problems.adapters.registry",
    "convert_data": "problems.adapters.registry",
    "data_coverage": "problems.coverage",
    "generate_arrows": "problems.arrows",
    "generate_charts": "problems.charts",
    "generate_counting": "problems.counting",
    "generate_problems": "problems.kinds",
    "load_problems": "problems.folder",
    "parse_response": "problems.response",
    "read_data": "problems.adapters.registry",
    "render_response": "problems.response",
    "save_problems": "problems.folder",
    # models
    "Encoded": "models.inputs",
    "Generation": "models.generate",
    "Mllm": "models.load",
    "Span": "models.layout",
    "TokenGrid": "models.grid",
    "TokenLayout": "models.layout",
    "collate": "models.inputs",
    "encode": "models.inputs",
    "encode_problem": "models.inputs",
    "generate": "models.generate",
    "load_mllm": "models.load",
    "paintable_tokens": "models.painting",
    "painted_tokens": "models.painting",
    "wrap_mllm": "models.load",
    # measure
    "METRICS": "measure.metrics",
    "Claim": "measure.claim",
    "EditOptions": "measure.edits",
    "Generations": "measure.generations",
    "HeadRule": "measure.heads",
    "Interval": "measure.statistics",
    "Knockout": "measure.knockout",
    "MeanValue": "measure.knockout",
    "Metric": "measure.metrics",
    "ModelCheck": "measure.check",
    "Probe": "measure.probe",
    "Records": "measure.records",
    "RunFolder": "measure.run",
    "SinkRule": "measure.sinks",
    "Term": "measure.claim",
    "access_tables": "measure.access",
    "access_trajectory": "measure.trajectory",
    "adding_mistakes": "measure.mistakes",
    "answer_access": "measure.access",
    "answer_problems": "measure.answers",
    "area_over_curve": "measure.post_hoc",
    "at_heads": "measure.heads",
    "at_positions": "measure.curves",
    "attached": "measure.attention",
    "attribution_maps": "measure.attributions",
    "auroc": "measure.separation",
    "bootstrap_mean": "measure.statistics",
    "causal_access": "measure.causal_access",
    "causal_curve": "measure.causal_tables",
    "causal_items": "measure.causal_tables",
    "check_model": "measure.check",
    "commitment": "measure.commitment",
    "commitment_curve": "measure.commitment_tables",
    "commitment_items": "measure.commitment_tables",
    "compare": "measure.metrics",
    "compare_heads": "measure.head_comparison",
    "compare_maps": "measure.relevance",
    "dependence": "measure.dependence",
    "divergence_steps": "measure.divergence",
    "early_answering": "measure.post_hoc",
    "edited_images": "measure.edits",
    "export_task": "measure.lmms_eval",
    "find_sinks": "measure.sinks",
    "focus_items": "measure.focus",
    "generate_run": "measure.responses",
    "gradient_maps": "measure.rollout",
    "intervening": "measure.attention",
    "item_values": "measure.metrics",
    "layer_windows": "measure.causal_plan",
    "lens_commitment": "measure.lens",
    "lens_items": "measure.lens",
    "measure_all": "measure.suite",
    "measure_run": "measure.suite",
    "net_dependence": "measure.dependence_tables",
    "paired_difference": "measure.statistics",
    "prior_reliance": "measure.dependence",
    "read_generations": "measure.generations",
    "read_maps": "measure.probe",
    "read_masses": "measure.probe",
    "relevance_maps": "measure.relevance",
    "relevance_table": "measure.relevance",
    "response_maps": "measure.step_maps",
    "rollout_maps": "measure.rollout",
    "select_heads": "measure.heads",
    "separation": "measure.separation",
    "step_curve": "measure.curves",
    "summarise": "measure.metrics",
    "token_divergence": "measure.divergence",
    "visual_access": "measure.access",
    "visual_heads": "measure.heads",
    # train
    "AccuracyReward": "train.rewards",
    "Arm": "train.arms",
    "AttCoTConfig": "train.objective",
    "AttCoTMixin": "train.trainer",
    "AttCoTSFTTrainer": "train.trl",
    "AttCoTTrainer": "train.trainer",
    "CotCollator": "train.trl",
    "FinetuneConfig": "train.finetune",
    "FormatReward": "train.rewards",
    "RegionReward": "train.rewards",
    "RegionRewardConfig": "train.region_config",
    "SayoConfig": "train.sayo_config",
    "VistaConfig": "train.vista_config",
    "VistaRound": "train.vista_sets",
    "attach": "train.trainer",
    "finetune": "train.finetune",
    "finetune_sayo": "train.sayo",
    "grpo_rows": "train.grpo_rows",
    "image_dependence": "train.pseudo_positives",
    "language_lora": "train.lora",
    "learn_both_orders": "train.prompt_orders",
    "prompt_completion_rows": "train.trl",
    "pseudo_positives": "train.pseudo_positives",
    "read_arm": "train.arms",
    "read_vista_round": "train.vista_drawing",
    "region_attention": "train.region_reward",
    "run_vista": "train.vista",
    "train_arm": "train.arms",
    "train_vista_round": "train.vista_training",
    "vista_folder": "train.vista",
    "visual_target": "train.visual_target",
    # grids
    "grid_values": "grid",
    "read_grid": "grid_config",
    "run_grid": "grid",
    # claims
    "CLAIMS": "claims.catalogue",
    "claim_against_claim": "claims.against",
    "claims_table": "claims.table",
    "line_through_cells": "claims.against",
    # show
    "Explorer": "show.explorer",
    "ExplorerModel": "show.explorer_data",
    "ExplorerRecord": "show.explorer_data",
    "access_curves": "show.curves",
    "access_grid": "show.curves",
    "before_after": "show.heatmaps",
    "cells_figure": "show.cells",
    "claim_forest": "show.forest",
    "claims_overview": "show.forest",
    "commitment_curves": "show.curves",
    "comparison_intervals": "show.intervals",
    "describe_record": "show.description",
    "entropy_strip": "show.region",
    "explorer_fragment": "show.explorer_html",
    "explorer_page": "show.explorer_html",
    "heatmap_row": "show.heatmaps",
    "mended_rationale": "show.vista",
    "metric_intervals": "show.intervals",
    "problem_pictures": "show.pictures",
    "read_figure_data": "show.figures",
    "region_picture": "show.pictures",
    "reward_curve": "show.region",
    "save_figure": "show.figures",
    "score_distribution": "show.vista",
    "separation_table": "show.separation",
    "training_curves": "show.training",
    "write_report": "show.report",
    "yield_intervals": "show.vista",
    # measure, then show
    "explore": "explorers",
    "explorer_record": "explorers",
    # reports
    "Comparison": "reports.compare",
    "compare_runs": "reports.compare",
    "report_run": "reports.single",
    # run files
    "follow_road": "road",
    "read_run_file": "run_file",
}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the lazy names too, for completion."""
    return sorted({*globals(), *__all__})
