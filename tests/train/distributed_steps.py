"""Two SGD steps with both terms, run by `test_distributed.py` in one or several processes.

Usage: ``distributed_steps.py CHECKPOINT OUTPUT_FOLDER ITEMS_PER_PROCESS``.  ``ddp`` is TRL's
trainer; ``fsdp2`` shards the model by hand, since accelerate keeps FSDP for accelerators.  Several
processes also make two steps of GRPO with SAYO's rewards.
"""

import sys
from dataclasses import replace

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from attcot_analysis.attention.hook import attached
from attcot_analysis.models import load_mllm
from attcot_analysis.train import AttCoTConfig, AttCoTTerms
from attcot_analysis.train.trainer import AttCoTSFTTrainer, CotCollator, prompt_completion_rows
from attcot_lab.sayo import SayoConfig, finetune_sayo
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

# isort: split
# After our models package, which makes torchvision importable.
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig

TERMS = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, warmup=0.0, vis_region="evidence")
RATE = 0.05


def run_ddp(mllm, rows, folder, size):
    """Two steps of TRL's trainer."""
    arguments = SFTConfig(
        output_dir=folder,
        max_steps=2,
        per_device_train_batch_size=size,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_steps=1,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    trainer = AttCoTSFTTrainer(
        model=mllm.model,
        processing_class=mllm.processor,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        mllm=mllm,
        attcot=TERMS,
    )
    trainer.train()
    return mllm.model.state_dict()


def run_fsdp2(mllm, rows, size):
    """Two steps on a model whose layers and head are sharded."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    world = 1
    if dist.is_torchelastic_launched():
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        world = dist.get_world_size()
        mesh = init_device_mesh("cpu", (world,))
        for layer in mllm.model.get_decoder().layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(mllm.model, mesh=mesh)
    rank = dist.get_rank() if world > 1 else 0
    terms = AttCoTTerms(mllm, TERMS)
    collate = CotCollator(mllm)
    optimizer = torch.optim.SGD(mllm.model.parameters(), lr=RATE)
    mllm.model.train()
    with attached(mllm.model):
        for step in range(2):
            start = step * size * world
            inputs = collate(rows[start + rank * size : start + (rank + 1) * size])
            examples = inputs.pop("attcot")
            batch = terms.prepare(inputs, examples)
            with terms.running(batch):
                logits = mllm.model(
                    **{k: v for k, v in batch.inputs.items() if k != "labels"}
                ).logits
            # A mean over items, so that it is the same however items are spread.
            labels = batch.inputs["labels"][:, 1:]
            entropy = torch.nn.functional.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels, reduction="none"
            )
            loss = (entropy.sum(1) / (labels >= 0).sum(1)).mean() + terms.loss(batch)[0]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in mllm.model.state_dict().items()
    }


def run_sayo(checkpoint, output):
    """Two steps of GRPO; every other problem has no boxes, so that not all can be rewarded."""
    problems = generate_arrows(8, ArrowsConfig(prior=0.95), seed=1, split="train")
    problems = [replace(one, steps=one.steps[: at % 2]) for at, one in enumerate(problems)]
    config = SayoConfig(
        steps=2, questions=2, num_generations=2, max_completion=6, learning_rate=1e-3
    )
    folder = finetune_sayo(checkpoint, problems, f"{output}/sayo", config, save_every=1)
    own = load_mllm(folder).model.state_dict()["lm_head.weight"].contiguous()
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    assert all(torch.equal(own, other) for other in found)


def main(checkpoint, output, size):
    """Train the checkpoint in both ways and save the weights."""
    for kind in ("ddp", "fsdp2"):
        set_seed(0)
        mllm = load_mllm(checkpoint, dtype=torch.float32)
        problems = generate_arrows(8, ArrowsConfig(prior=0.95), seed=1, split="train")
        rows = list(prompt_completion_rows(mllm, problems))
        if kind == "ddp":
            weights = run_ddp(mllm, rows, f"{output}/run", int(size))
        else:
            weights = run_fsdp2(mllm, rows, int(size))
        if not dist.is_initialized() or dist.get_rank() == 0:
            whole = {name: value.contiguous().clone() for name, value in weights.items()}
            save_file(whole, f"{output}/{kind}.safetensors")
        if kind == "ddp" and dist.is_initialized():
            run_sayo(checkpoint, output)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
