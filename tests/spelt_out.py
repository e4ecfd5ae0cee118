"""Interventions on attention spelt out, edge by edge and token by token: oracles for tests."""

import copy
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask


def eager_copy(model):
    """A copy whose text stack runs eager attention."""
    model = copy.deepcopy(model)
    text = model.config.get_text_config()
    name = next(key for key in model.config.sub_configs if getattr(model.config, key) is text)
    model.set_attn_implementation({name: "eager"})
    return model


def all_layers(layers, model):
    n_layers = model.config.get_text_config().num_hidden_layers
    return range(n_layers) if layers is None else layers


@contextmanager
def cut_eagerly(model, rows, keys, layers=None, generated=False):
    """Add -inf to the eager mask, edge by edge, in the layers of a window."""

    def add(module, args, kwargs):
        mask = kwargs["attention_mask"].expand(len(rows), -1, -1, -1).clone()
        for item, row, key in edges:
            if row < mask.shape[2]:
                mask[item, :, row, key] = float("-inf")
        for row in range(rows.shape[1], mask.shape[2] if generated else 0):
            for item in range(len(rows)):
                mask[item, :, row, : keys.shape[1]][:, keys[item]] = float("-inf")
        return args, kwargs | {"attention_mask": mask}

    edges = (rows[:, :, None] & keys[:, None, :]).nonzero().tolist()
    attention = [layer.self_attn for layer in model.model.get_decoder().layers]
    hooks = [
        attention[layer].register_forward_pre_hook(add, with_kwargs=True)
        for layer in all_layers(layers, model)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def mean_valued(model, rows, keys, layers=None, generated=False):
    """Run an attention that forms every row's output by itself."""

    def attention(module, query, key, value, mask, scaling=None, **options):
        groups = query.shape[1] // key.shape[1]
        output = torch.zeros(*query.shape[:3], value.shape[-1])
        for item in range(len(query)):
            image = keys[item].nonzero()[:, 0]
            for head in range(query.shape[1]):
                values = value[item, head // groups]
                means = values.clone()
                means[image] = values[image].mean(0) if len(image) else 0
                for row in range(query.shape[2]):
                    scores = key[item, head // groups] @ query[item, head, row] * scaling
                    weights = (scores + mask[item, 0, row]).softmax(-1)
                    hit = rows[item, row] if row < rows.shape[1] else generated
                    hit = hit and module.layer_idx in all_layers(layers, model)
                    output[item, head, row] = weights @ (means if hit else values)
        return output.transpose(1, 2).contiguous(), None

    AttentionInterface.register("naive", attention)
    AttentionMaskInterface.register("naive", eager_mask)
    before = model.config.text_config._attn_implementation
    model.set_attn_implementation({"text_config": "naive"})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})


def respond(model, batch, n, banned):
    """Greedy, without a cache: one whole forward pass per token."""
    batch = dict(batch)
    shape = batch["input_ids"].shape
    by_token = [key for key, value in batch.items() if value.shape == shape]
    for _ in range(n):
        scores = model(**batch, use_cache=False).logits[:, -1]
        scores[:, banned] = float("-inf")
        new = scores.argmax(-1, keepdim=True)
        for key in by_token:
            more = {"input_ids": new, "attention_mask": torch.ones_like(new)}
            batch[key] = torch.cat([batch[key], more.get(key, torch.zeros_like(new))], dim=1)
    return batch["input_ids"]
