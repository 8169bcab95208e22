"""The transform `token_reduction`: a Vision Transformer whose blocks hand on fewer tokens than they take, by a fixed schedule.

How a schedule was found is the business of a `compress_tokens` method. Here tokens are really removed, in training too, with
counts that are known before any image is seen: so an exported graph has the schedule inside. Each block's layers stay where
they were, under their own names, and are called as modules: masks and fake quantization on them go on working.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it

# isort: split
import torch
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from stages.models.bundle import ModelBundle, apply_transform
from stages.models.transforms import TOKEN_REDUCTION
from stages.ops.token_budget import TokenSchedule, ViTShape, refuse_schedule, tome_kept_tokens
from stages.ops.tokens import Tokens, attend, class_attention, merge_bipartite, reduce_ranked

PARTS = ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
"""What a timm block is made of, and what `ReducedBlock` takes over under the same names."""


class Reduction(nn.Module):
    """What happens to the tokens between a block's attention and its MLP; by default nothing.

    A module without state, so that what it multiplies can be told from what the network multiplies.
    """

    counted_apart = True

    def forward(self, tokens: Tokens, query: Tensor, key: Tensor) -> Tokens:
        """Reduce `tokens`, by the attention before: the class token's scaled `query` (B, h, 1, D), `key` (B, h, N, D)."""
        del query, key
        return tokens


class RankedReduction(Reduction):
    """DiffRate's: rank by the class token's attention, prune to K_p, merge into the first K_m."""

    def __init__(self, prune_to: int, merge_to: int) -> None:
        super().__init__()
        self.prune_to, self.merge_to = prune_to, merge_to

    def forward(self, tokens: Tokens, query: Tensor, key: Tensor) -> Tokens:
        if min(self.prune_to, self.merge_to) >= tokens.features.shape[1]:
            return tokens
        importance = class_attention(query, key, size=tokens.size)
        return reduce_ranked(tokens, importance, prune_to=self.prune_to, merge_to=self.merge_to)


class BipartiteReduction(Reduction):
    """ToMe's: merge `merged` tokens by the similarity of their keys, mean over heads."""

    def __init__(self, merged: int) -> None:
        super().__init__()
        self.merged = merged

    def forward(self, tokens: Tokens, query: Tensor, key: Tensor) -> Tokens:
        del query
        return merge_bipartite(tokens, key.mean(dim=1), merged=self.merged) if self.merged else tokens


class ReducedBlock(nn.Module):
    """x <- x + attention(norm1(x)); reduce; x <- x + mlp(norm2(x)), with log size added to the attention's logits.

    The log of the sizes makes a token that stands for s patches count s times (Bolya et al. 2022, arXiv 2210.09461, eq. 1).
    """

    def __init__(self, block: nn.Module, reduction: Reduction) -> None:
        super().__init__()
        for name in PARTS:
            self.add_module(name, getattr(block, name))
        self.reduction = reduction

    def forward(self, tokens: Tokens) -> Tokens:
        query, key, value = self.split_heads(tokens.features)
        attention: Any = self.attn
        dropout = attention.attn_drop.p if self.training else 0.0
        mixed = attend(query, key, value, size=tokens.size, scale=attention.scale, dropout=dropout)
        tokens = Tokens(self.add_attention(tokens.features, mixed), tokens.size, tokens.mask)
        return self.add_mlp(self.reduction(tokens, query[:, :, :1] * attention.scale, key))

    def project(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values, each (B, h, N, D)."""
        query, key, value = self.split_heads(features)
        attention: Any = self.attn
        return query * attention.scale, key, value

    def split_heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries as they are, keys and values, each (B, h, N, D)."""
        attention: Any = self.attn
        batch, count, _ = features.shape
        qkv = attention.qkv(self.norm1(features))  # type: ignore[operator]
        query, key, value = (
            qkv.reshape(batch, count, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        )
        return attention.q_norm(query), attention.k_norm(key), value

    def add_attention(self, features: Tensor, mixed_BhND: Tensor) -> Tensor:
        """The residual sum after attention."""
        attention: Any = self.attn
        batch, _, count, _ = mixed_BhND.shape
        mixed = attention.norm(mixed_BhND.transpose(1, 2).reshape(batch, count, attention.attn_dim))
        added: Tensor = features + self.drop_path1(self.ls1(attention.proj_drop(attention.proj(mixed))))  # type: ignore[operator]
        return added

    def add_mlp(self, tokens: Tokens) -> Tokens:
        """The residual sum after the MLP."""
        added = self.drop_path2(self.ls2(self.mlp(self.norm2(tokens.features))))  # type: ignore[operator]
        return Tokens(tokens.features + added, tokens.size, tokens.mask)


class ReducedViT(VisionTransformer):  # type: ignore[misc]
    """timm's VisionTransformer with blocks that hand `Tokens` on. A model becomes one by `reduce_blocks`."""

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override, unused-ignore]
        """(B, channels, H, W) -> (B, classes)."""
        tokens = self.first_tokens(self.norm_pre(self._pos_embed(self.patch_embed(images))))
        for block in self.blocks:
            tokens = block(tokens)
        features = self.fc_norm(self.read_out(tokens))
        logits: Tensor = self.head(self.head_drop(features))
        return logits

    def first_tokens(self, features: Tensor) -> Tokens:
        """What the first block gets."""
        return Tokens(features)

    def read_out(self, tokens: Tokens) -> Tensor:
        """The class token, or sum(x * size) / sum(size) over the patch tokens that are there: (B, C)."""
        if self.global_pool == "token":
            read: Tensor = self.norm(tokens.features[:, 0])
            return read
        features: Tensor = self.norm(tokens.features)[:, 1:]
        if tokens.size is None:
            return features.mean(dim=1)
        weight = tokens.size if tokens.mask is None else tokens.size * tokens.mask
        weight = weight[:, 1:, None]
        return (features * weight).sum(dim=1) / weight.sum(dim=1).detach()


class TokenReductionTransform:
    """Settings: `operator`, and counts for every block.

    "ranked": `prune` and `merge`, tokens kept after each, the class token counted. "bipartite": `merged`, tokens to merge.
    """

    name = "token_reduction"
    version = 1
    order = TOKEN_REDUCTION

    def attach(self, model: nn.Module, settings: Mapping[str, Any]) -> None:
        """Make every block reduce its tokens as the settings say."""
        reduce_blocks(model, _reductions(model, settings))

    def fold(self, model: nn.Module) -> None:
        """Nothing to do: no state, no proxy and no mask is left, and counts are constants."""
        assert isinstance(model, ReducedViT)


TRANSFORM = TokenReductionTransform()


def apply_schedule(bundle: ModelBundle, schedule: TokenSchedule) -> ModelBundle:
    """Fix DiffRate's operators with these counts in a bundle's model, in place, and return the bundle that records them."""
    settings = {"operator": "ranked", "prune": list(schedule.prune), "merge": list(schedule.merge)}
    return apply_transform(bundle, TRANSFORM.name, settings)


def apply_bipartite(bundle: ModelBundle, merged: Sequence[int]) -> ModelBundle:
    """Fix ToMe's operator in a bundle's model, in place: `merged` tokens go in each block."""
    return apply_transform(bundle, TRANSFORM.name, {"operator": "bipartite", "merged": list(merged)})


def find_schedule(bundle: ModelBundle, *, who: str) -> TokenSchedule:
    """The schedule that a bundle carries, to be given to another; raises ValueError where it carries none."""
    for spec in bundle.transforms:
        if spec.name == TRANSFORM.name and spec.settings["operator"] == "ranked":
            return TokenSchedule(prune=tuple(spec.settings["prune"]), merge=tuple(spec.settings["merge"]))
    raise ValueError(f"{who}: the model carries no schedule of pruned and merged tokens; make it with compress_tokens.diffrate")


def reduce_blocks(model: nn.Module, reductions: Sequence[Reduction]) -> None:
    """Put a reduction into every block, in place; the state dict keeps its names."""
    refuse_model(model, who="token_reduction")
    vit: Any = model
    vit.blocks = nn.Sequential(*(ReducedBlock(*pair) for pair in zip(vit.blocks, reductions, strict=True)))
    vit.__class__ = ReducedViT
    vit.train(vit.training)  # the new modules, too


def vit_shape(model: nn.Module, *, image_shape: tuple[int, ...] | None = None) -> ViTShape:
    """The sizes that a supported model's cost depends on.

    Args:
        model: plain, or with reduced blocks.
        image_shape: (channels, height, width), needed where the embedding is more than one convolution: it is counted then.
    """
    vit: Any = model
    attention = vit.blocks[0].attn
    head = getattr(vit.head, "weight", None)
    return ViTShape(
        depth=len(vit.blocks),
        num_patches=int(vit.patch_embed.num_patches),
        width=int(vit.embed_dim),
        attention_width=int(attention.attn_dim),
        hidden_width=_out_features(vit.blocks[0].mlp.fc1),
        embedding_macs=_embedding_macs(vit, image_shape),
        head_macs=0 if head is None else int(head.numel()),
        mean_pooled=vit.global_pool == "avg",
    )


def kept_tokens(model: nn.Module) -> tuple[int, ...]:
    """Tokens that leave each block of a model with the transform."""
    vit: Any = model
    count, reductions = vit.patch_embed.num_patches + 1, [block.reduction for block in vit.blocks]
    if all(isinstance(one, BipartiteReduction) for one in reductions):
        return tome_kept_tokens([one.merged for one in reductions], num_tokens=count)
    return TokenSchedule(
        prune=tuple(one.prune_to for one in reductions), merge=tuple(one.merge_to for one in reductions)
    ).kept_tokens(count)


def refuse_model(model: nn.Module, *, who: str) -> None:
    """Raise ValueError naming what token reduction cannot work on; it works on timm's plain VisionTransformer of any size."""
    supported = "supported: timm VisionTransformer with a class token and no registers, read out by class token or mean"
    if type(model) is not VisionTransformer:
        name = type(model).__name__
        known = {
            "ReducedViT": "reduces its tokens already; start from the model before that",
            "VisionTransformerDistilled": "has a distillation token beside the class token",
        }
        raise ValueError(
            f"{who}: the model is a {name}, which {known.get(name, 'is no plain Vision Transformer')}; {supported}"
        )
    vit: Any = model
    wrong = {
        f"it has {vit.num_reg_tokens} register tokens": vit.num_reg_tokens,
        "it has no class token, whose attention ranks the others": not vit.has_class_token,
        f"it is read out by {vit.global_pool!r}": vit.global_pool not in ("token", "avg") or vit.attn_pool is not None,
        "its mean counts the class token (pool_include_prefix)": vit.global_pool == "avg" and vit.pool_include_prefix,
        "it takes images of any size, so its number of tokens is not known beforehand": vit.dynamic_img_size,
        "it drops patches at random in training (patch_drop_rate)": not isinstance(vit.patch_drop, nn.Identity),
    }
    for problem, holds in wrong.items():
        if holds:
            raise ValueError(f"{who}: {problem}; {supported}")
    for index, block in enumerate(vit.blocks):
        found = block if type(block) is not Block else block.attn
        if type(found) not in (Block, Attention) or getattr(found, "gate", None) is not None:
            raise ValueError(
                f"{who}: blocks.{index} has a {type(found).__name__} of its own kind; supported: timm Block, Attention"
            )


def _reductions(model: nn.Module, settings: Mapping[str, Any]) -> list[Reduction]:
    refuse_model(model, who="token_reduction")
    vit: Any = model
    depth, count, operator = len(vit.blocks), int(vit.patch_embed.num_patches) + 1, settings["operator"]
    if operator == "bipartite":
        if len(settings["merged"]) != depth or min(settings["merged"]) < 0:
            raise ValueError(f"token_reduction: merged is {list(settings['merged'])}; expected {depth} counts of 0 or more")
        return [BipartiteReduction(int(merged)) for merged in settings["merged"]]
    if operator != "ranked":
        raise ValueError(f"token_reduction: unknown operator {operator!r}; known: ranked, bipartite")
    schedule = TokenSchedule(prune=tuple(settings["prune"]), merge=tuple(settings["merge"]))
    refuse_schedule(schedule, depth=depth, num_tokens=count, who="token_reduction")
    return [RankedReduction(*pair) for pair in zip(schedule.prune, schedule.merge, strict=True)]


def _out_features(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])


def _embedding_macs(vit: Any, image_shape: tuple[int, ...] | None) -> int:
    """One convolution is counted as the authors do, with a place for the class token; anything else by watching it run."""
    from stages.ops.counting import count_compute

    weight = getattr(getattr(vit.patch_embed, "proj", None), "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 4 and isinstance(vit.patch_embed.proj, nn.Conv2d):
        return int(weight.numel()) * (int(vit.patch_embed.num_patches) + 1)
    if image_shape is None:
        raise ValueError("the patch embedding is more than one convolution; give image_shape, so that it can be counted")
    device = next(vit.patch_embed.parameters()).device
    was_training = vit.patch_embed.training
    count = count_compute(vit.patch_embed.eval(), torch.zeros(1, *image_shape, device=device)).macs
    vit.patch_embed.train(was_training)
    return count
