"""Settings that would lose the terms' gradient or misplace tokens are refused, with a remedy."""

from types import SimpleNamespace

import pytest
from peft import get_peft_model
from tiny import tiny_mllm

from attcot_analysis.errors import TrainingError
from attcot_analysis.train import AttCoTConfig, language_lora
from attcot_analysis.train.objective import readable_layers
from attcot_analysis.train.trainer import check_arguments

BOTH = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0)


def trainer(model=None, *, zero_stage=None, cp_size=1, sp_size=1, **arguments):
    """What the checks look at in a trainer; TRL itself forbids some settings of vision models."""
    settings = {
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "gradient_checkpointing_kwargs": None,
        "n_gpu": 1,
        **arguments,
    }
    plugin = None if zero_stage is None else SimpleNamespace(zero_stage=zero_stage)
    accelerator = SimpleNamespace(
        state=SimpleNamespace(deepspeed_plugin=plugin),
        parallelism_config=SimpleNamespace(cp_size=cp_size, sp_size=sp_size),
    )
    return SimpleNamespace(
        args=SimpleNamespace(**settings), accelerator=accelerator, model=model or SimpleNamespace()
    )


@pytest.fixture(scope="module")
def adapted():
    return get_peft_model(tiny_mllm().model, language_lora(2))


CHECKPOINTED = {"gradient_checkpointing": True}
REFUSED = {
    "reentrant": (
        {**CHECKPOINTED, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        r"Reentrant.*'use_reentrant': False",
    ),
    "reentrant, by its new name": (
        {
            "activation_checkpointing": True,
            "activation_checkpointing_kwargs": {"use_reentrant": True},
        },
        r"Reentrant.*'use_reentrant': False",
    ),
    "packing": ({"packing": True}, "several items in one row.*packing=False"),
    "padding-free": ({"padding_free": True}, "several items in one row.*padding_free=False"),
    "max_length": ({"max_length": 1024}, "max_length=1024.*image tokens.*max_length=None"),
    "columns": ({"remove_unused_columns": True}, "drop.*remove_unused_columns=False"),
    "context parallel": ({"cp_size": 2}, "splits sequences.*data parallelism"),
    "sequence parallel": ({"sp_size": 4}, "splits sequences.*data parallelism"),
    "liger": ({"use_liger_kernel": True}, "use_liger_kernel=False"),
    "compiled": ({"torch_compile": True}, "first step.*torch_compile=False"),
    "one process, two devices": ({"n_gpu": 2}, "DataParallel.*one process per device"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_the_terms_is_refused(name):
    options, said = REFUSED[name]
    with pytest.raises(TrainingError, match=said):
        check_arguments(trainer(**options), BOTH)
    check_arguments(trainer(**options), AttCoTConfig())


def test_zero_3_with_adapters_and_checkpointing_is_refused_and_each_two_of_them_are_not(adapted):
    with pytest.raises(TrainingError, match=r"ZeRO-3.*ZeRO-2 or FSDP2"):
        check_arguments(trainer(adapted, zero_stage=3, **CHECKPOINTED), BOTH)
    check_arguments(trainer(adapted, zero_stage=3), BOTH)
    check_arguments(trainer(adapted, zero_stage=2, **CHECKPOINTED), BOTH)
    check_arguments(trainer(zero_stage=3, **CHECKPOINTED), BOTH)


def test_what_is_safe_is_let_pass():
    safe = {**CHECKPOINTED, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    for options in ({}, safe, CHECKPOINTED, {"max_length": None, "packing": False}):
        check_arguments(trainer(**options), BOTH)


def test_a_band_without_full_attention_is_refused():
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    mllm = tiny_mllm(use_sliding_window=True, sliding_window=9, layer_types=kinds)
    # The middle third of three layers is the one that slides.
    for config in (BOTH, AttCoTConfig(lambda_vis=1, vis_layers=(0, 1))):
        with pytest.raises(
            TrainingError, match=r"full attention.*set vis_layers to some of \[0, 2"
        ):
            readable_layers(mllm, config)
    assert readable_layers(mllm, AttCoTConfig(lambda_vis=1, vis_layers="all")) == (0, 2)
    assert readable_layers(mllm, AttCoTConfig(lambda_vis=1, vis_heads=((2, 0),))) == (2,)
    assert readable_layers(mllm, AttCoTConfig(lambda_commit=1)) == ()
