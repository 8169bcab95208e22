"""DiffRate once more, slowly: one image, one head, one token at a time, straight from the equations. No code is shared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it

# isort: split
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional


def small_vit(*, pool="token", seed=0, **changes) -> VisionTransformer:
    """Eight patches, large weights: tokens differ, so that ranks are not decided by rounding."""
    torch.manual_seed(seed)
    chosen = {"img_size": (4, 8), "patch_size": 2, "in_chans": 1, "num_classes": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model = VisionTransformer(**{**chosen, "mlp_ratio": 4.0, "global_pool": pool, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
    return model


@dataclass
class Seen:
    """What one pass came by: per block, orders of the tokens that are there, their number, the mask of the first image."""

    logits: torch.Tensor
    macs: torch.Tensor
    orders: list[list[list[int]]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    masks: list[torch.Tensor] = field(default_factory=list)


def straight_through(hard, soft):
    return hard - soft.detach() + soft


def rate(scores, patches, granularity):
    """K with gradient and the probability that each rank is kept."""
    share = torch.softmax(scores, dim=0)
    candidates = list(range(patches, 0, -granularity))
    expected = sum(share[i] * c for i, c in enumerate(candidates))
    kept = straight_through(torch.ceil(expected.detach()), expected) + 1
    keep = [sum((share[i] for i, c in enumerate(candidates) if c + 1 > t), scores.new_zeros(())) for t in range(patches + 1)]
    return kept, keep


def rank_mask(keep, kept, current):
    hard = [0.0 if kept <= t < current else 1.0 for t in range(len(keep))]
    return [straight_through(torch.tensor(h, dtype=p.dtype), p) for h, p in zip(hard, keep, strict=False)]


def training_pass(model, scores, images, *, granularity=1) -> Seen:
    """`scores[l]` is None for a block that compresses nothing, else (prune, merge)."""
    patches = model.patch_embed.num_patches
    rates = [None if pair is None else [rate(one, patches, granularity) for one in pair] for pair in scores]
    seen = Seen(logits=torch.empty(0), macs=cost(model, rates))
    seen.orders = [[] for _ in scores]
    outputs = []
    for image in images:
        tokens = list(model._pos_embed(model.patch_embed(image[None]))[0])
        size = [tokens[0].new_ones(()) for _ in tokens]
        mask = [tokens[0].new_ones(()) for _ in tokens]
        for index, block in enumerate(model.blocks):
            tokens, size, mask = one_block(block, tokens, size, mask, rates[index], seen, index, first=not outputs)
        outputs.append(read_out(model, tokens, size, mask))
    seen.logits = torch.stack(outputs)
    return seen


def one_block(block, tokens, size, mask, rates, seen, index, *, first):
    count = len(tokens)
    attention = block.attn
    heads, width = attention.num_heads, attention.head_dim
    qkv = [attention.qkv(block.norm1(x)).reshape(3, heads, width) for x in tokens]
    importance = [0.0] * count
    mixed = [[None] * heads for _ in tokens]
    for h in range(heads):
        for i in range(count):
            logit = [(qkv[i][0, h] @ qkv[j][1, h]) / math.sqrt(width) + torch.log(size[j]) for j in range(count)]
            top = max(logit, key=float)
            weight = [torch.exp(logit[j] - top) * (1.0 if i == j else mask[j]) for j in range(count)]
            total = sum(weight) + 1e-6
            share = [(w + 1e-6 / count) / total for w in weight]
            mixed[i][h] = sum(share[j] * qkv[j][2, h] for j in range(count))
            if i == 0:
                importance = [a + float(s) / heads for a, s in zip(importance, share, strict=False)]
    tokens = [x + attention.proj(torch.cat(mixed[i])) for i, x in enumerate(tokens)]
    current = round(float(sum(mask)))
    order = [0, *sorted(range(1, count), key=lambda j: -importance[j])]
    seen.orders[index].append(order[:current])
    tokens, size, mask = ([part[j] for j in order] for part in (tokens, size, mask))
    if rates is not None:
        (prune, prune_keep), (merge, merge_keep) = rates
        prune, merge = int(prune), int(merge)
        if prune < current:
            mask = [m * r for m, r in zip(mask, rank_mask(prune_keep, prune, current), strict=False)]
            current = prune
        if merge < current:
            tokens, size = merge_tokens(tokens, size, merge, current)
            mask = [m * r for m, r in zip(mask, rank_mask(merge_keep, merge, current), strict=False)]
            current = merge
    if first:
        seen.counts.append(current)
        seen.masks.append(torch.stack([m.detach() for m in mask]))
    return [x + block.mlp(block.norm2(x)) for x in tokens], size, mask


def merge_tokens(tokens, size, kept, current):
    groups = {k: [tokens[k]] for k in range(kept)}
    new_size = [s.clamp(min=1) for s in size[:current]]
    for s in range(kept, current):
        likeness = [functional.cosine_similarity(tokens[s].detach(), tokens[k].detach(), dim=0) for k in range(1, kept)]
        best = max(range(kept - 1), key=lambda k: float(likeness[k]))
        groups[best + 1].append(tokens[s])
        new_size[s] = (size[s] * likeness[best]).clamp(min=1)
        new_size[best + 1] = new_size[best + 1] + new_size[s]
    merged = [sum(groups[k]) / len(groups[k]) for k in range(kept)]
    return merged + tokens[kept:], new_size + size[current:]


def read_out(model, tokens, size, mask):
    if model.global_pool == "token":
        return model.head(model.norm(tokens[0]))
    weight = [s * m for s, m in zip(size, mask, strict=False)][1:]
    pooled = sum(w * x for w, x in zip(weight, tokens[1:], strict=False)) / sum(weight).detach()
    return model.head(model.fc_norm(pooled))


def cost(model, rates):
    """F, for models with an MLP of four times the width."""
    patches, width = model.patch_embed.num_patches, model.embed_dim
    before = patches + 1
    macs = (patches + 1) * model.patch_embed.proj.weight.numel() + width * model.num_classes
    for pair in rates:
        after = float(torch.as_tensor(before).detach())
        if pair is not None:
            after = min(after, *(float(kept.detach()) for kept, _ in pair))
            after = after + sum(kept - kept.detach() for kept, _ in pair)
        macs = macs + 4 * before * width**2 + 2 * before**2 * width + 8 * after * width**2
        before = after
    return macs


class SlowAdam:
    """AdamW without weight decay."""

    def __init__(self, parameters, *, rate=0.01):
        self.parameters, self.rate, self.step_count = list(parameters), rate, 0
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self):
        self.step_count += 1
        for index, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            self.first[index] = 0.9 * self.first[index] + 0.1 * gradient
            self.second[index] = 0.999 * self.second[index] + 0.001 * gradient**2
            mean = self.first[index] / (1 - 0.9**self.step_count)
            square = self.second[index] / (1 - 0.999**self.step_count)
            parameter.sub_(self.rate * mean / (square.sqrt() + 1e-8))
            parameter.grad = None
