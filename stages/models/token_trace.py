"""Where the patches of an image end up in a model with token reduction: block by block, kept, merged with others, or pruned.

Knows no data set: images come in, and what comes out can be drawn on them. Shapes: B images, N tokens (class token at 0),
P = N - 1 patches, K tokens that are left.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stages.models.token_reduction import BipartiteReduction, RankedReduction, Reduction
from stages.ops.input_spec import InputSpec
from stages.ops.tokens import (
    Tokens,
    class_attention,
    match_tokens,
    merge_bipartite,
    merge_features,
    rank_tokens,
    take_tokens,
)

TRACE_FILE = "tokens.json"
FORMAT = 1
PRUNED = -1
MAX_PIXELS = 64
"""Height and width of the image that is kept for drawing."""


@torch.no_grad()
def trace_patches(model: Any, images: Tensor) -> Tensor:
    """The token of each patch after each block.

    Args:
        model: with the transform `token_reduction`, in evaluation mode, on the device of the images.
        images: (B, channels, height, width).

    Returns:
        (B, depth, P) int64: number of the token that the patch is part of, equal for patches that were merged; -1 where it was
        pruned. Numbers mean nothing beyond one block.
    """
    sources: list[Tensor] = [
        torch.eye(int(model.patch_embed.num_patches) + 1, device=images.device).expand(len(images), -1, -1)
    ]

    def watch(reduction: Reduction, arguments: tuple[Tokens, Tensor, Tensor]) -> None:
        sources.append(_reduced_sources(reduction, *arguments, sources[-1]))

    handles = [block.reduction.register_forward_pre_hook(watch) for block in model.blocks]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    places = []
    for source_BKN in sources[1:]:
        shares_BKP = source_BKN[:, :, 1:]
        places.append(torch.where(shares_BKP.amax(dim=1) > 0, shares_BKP.argmax(dim=1), PRUNED))
    return torch.stack(places, dim=1)


def save_trace(
    model: Any, images: Tensor, labels: Sequence[int], *, input_spec: InputSpec, class_names: Sequence[str], folder: Path
) -> None:
    """Write `tokens.json`: a few images, small enough for a page, and where their patches are after each block."""
    grid = [int(size) for size in model.patch_embed.grid_size]
    places = trace_patches(model, images)
    drawn = [
        {
            "class": class_names[label],
            "shape": list(pixels.shape),
            "pixels": base64.b64encode(bytes(pixels.flatten().tolist())).decode(),
            "blocks": place.tolist(),
        }
        for pixels, label, place in zip(map(partial(_pixels, input_spec=input_spec), images), labels, places, strict=True)
    ]
    text = json.dumps({"format": FORMAT, "grid": grid, "images": drawn}, separators=(",", ":")) + "\n"
    (folder / TRACE_FILE).write_text(text, encoding="utf-8")


def _reduced_sources(reduction: Reduction, tokens: Tokens, query: Tensor, key: Tensor, sources_BNS: Tensor) -> Tensor:
    """What the reduction does to the tokens, done to the shares of the first tokens in them."""
    current = tokens.features.shape[1]
    if isinstance(reduction, BipartiteReduction):
        if not reduction.merged:
            return sources_BNS
        return merge_bipartite(Tokens(sources_BNS), key.mean(dim=1), merged=reduction.merged).features
    if not isinstance(reduction, RankedReduction) or min(reduction.prune_to, reduction.merge_to) >= current:
        return sources_BNS
    pruned = min(reduction.prune_to, current)
    kept = min(reduction.merge_to, pruned)
    order = rank_tokens(class_attention(query, key, size=tokens.size), kept=pruned)
    sources = take_tokens(sources_BNS, order)
    if kept == pruned:
        return sources
    return merge_features(sources, match_tokens(take_tokens(tokens.features, order), kept=kept).target)


def _pixels(image: Tensor, *, input_spec: InputSpec) -> Tensor:
    """(height, width, 1 or 3) of 0 to 255, at most `MAX_PIXELS` high and wide."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (input_spec.mean, input_spec.std))
    plain = (image.cpu() * std + mean).clamp(0, 1)
    plain = plain if len(plain) in (1, 3) else plain.mean(dim=0, keepdim=True)
    longest = max(plain.shape[1:])
    if longest > MAX_PIXELS:
        sizes = [max(1, round(size * MAX_PIXELS / longest)) for size in plain.shape[1:]]
        plain = functional.interpolate(plain[None], size=sizes, mode="area")[0]
    return (plain * 255).round().to(torch.uint8).permute(1, 2, 0)
