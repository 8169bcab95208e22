"""DiffRate's search inside a model and inside the training loop: how many tokens each block keeps, learned under a budget.

In training no token is removed: a mask that carries gradients stands for that, so shapes stay. In evaluation mode the same
model really removes tokens, with the counts that its logits say at that moment. The network's own weights rest.

Shapes: B images, N tokens (class token at 0), P = N - 1 patches, I candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import cos, pi
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stages.models.token_reduction import RankedReduction, ReducedBlock, Reduction, reduce_blocks, vit_shape
from stages.ops.token_budget import TokenSchedule, ViTShape
from stages.ops.tokens import Tokens, masked_softmax, merge_in_place, position_mask, take_tokens
from stages.training.hooks import ParameterGroup, TrainingHook

ABSOLUTE_WEIGHT = 5.0
RELATIVE_WEIGHT = 106.0
PUBLISHED_SIZE_GMACS = 1.0
"""Models from here on (DeiT-Ti has 1.26) have the reference's loss by default; below, its square of G vanishes."""

Operations = Literal["both", "prune", "merge"]


class Rate(NamedTuple):
    """What the logits of one proxy say: K with gradient, the real-valued expectation behind it, and pi_t for all ranks."""

    kept: Tensor
    expected: Tensor
    keep_probability_N: Tensor


class RateProxy(nn.Module):
    """The learned number of tokens that one operation of one block keeps.

    rho = softmax(s);  E = sum_i rho_i c_i;  K = ceil(E) + 1, with dK/dE = 1;  pi_t = sum of rho_i over c_i + 1 > t.

    Attributes:
        logits: s_I, start at 0, so that a block starts with about half of its patches.
        candidates: c_I = P, P - g, P - 2g, ..., as long as at least `min_patches` are left.

    Source: Chen et al. 2023, arXiv 2305.17997, and the authors' code: the expectation is used, not the likeliest candidate.
    """

    candidates: Tensor
    keeps: Tensor

    def __init__(self, num_patches: int, *, granularity: int, min_patches: int = 1) -> None:
        super().__init__()
        candidates = torch.arange(num_patches, min_patches - 1, -granularity)
        self.logits = nn.Parameter(torch.zeros(len(candidates)))
        self.register_buffer("candidates", candidates.to(self.logits.dtype), persistent=False)
        keeps_NI = candidates + 1 > torch.arange(num_patches + 1)[:, None]
        self.register_buffer("keeps", keeps_NI.to(self.logits.dtype), persistent=False)

    def forward(self) -> Rate:
        share = self.logits.softmax(dim=0)
        expected = (share * self.candidates).sum()
        whole = expected.detach().ceil() - expected.detach() + expected
        return Rate(kept=whole + 1, expected=expected, keep_probability_N=self.keeps @ share)

    @torch.no_grad()
    def count(self) -> int:
        """K as a number."""
        return int(((self.logits.softmax(dim=0) * self.candidates).sum()).ceil()) + 1


class SearchedReduction(RankedReduction):
    """Prune and merge with learned counts; an operation without a proxy keeps everything.

    `order_BN` is the ranking of the last training pass, for those who want to look at it.
    """

    def __init__(self, prune: RateProxy | None, merge: RateProxy | None, *, num_tokens: int) -> None:
        super().__init__(num_tokens, num_tokens)
        self.num_tokens = num_tokens
        self.prune, self.merge = prune, merge
        self.rates: tuple[Rate | None, Rate | None] = (None, None)
        self.order_BN: Tensor | None = None

    def update(self) -> None:
        """Compute the rates of the coming training pass."""
        self.rates = (self.prune() if self.prune else None, self.merge() if self.merge else None)
        self.read_counts()

    def read_counts(self) -> None:
        """Take K_p and K_m from the logits as they are."""
        self.prune_to = self.prune.count() if self.prune else self.num_tokens
        self.merge_to = self.merge.count() if self.merge else self.num_tokens

    def forward(self, tokens: Tokens, query: Tensor, key: Tensor) -> Tokens:
        self.read_counts()  # logits may have moved, or been loaded, since the last update
        return super().forward(tokens, query, key)

    def mask_tokens(self, tokens: Tokens, importance_BN: Tensor) -> Tokens:
        """The training form: rank all tokens, mask what is pruned, merge in place and mask what was merged."""
        self.order_BN = rank_all(importance_BN)
        assert tokens.size is not None
        assert tokens.mask is not None
        features, size, mask = (take_tokens(part, self.order_BN) for part in (tokens.features, tokens.size, tokens.mask))
        current = round(float(mask[0].detach().sum()))
        prune, merge = self.rates
        if prune is not None and self.prune_to < current:
            mask = mask * position_mask(prune.keep_probability_N.to(mask.dtype), kept=self.prune_to, current=current)
            current = self.prune_to
        ranked = Tokens(features, size, mask)
        if merge is None or self.merge_to >= current:
            return ranked
        merged = merge_in_place(ranked, current=current, kept=self.merge_to)
        hides = position_mask(merge.keep_probability_N.to(mask.dtype), kept=self.merge_to, current=current)
        return merged._replace(mask=mask * hides)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "rates": (None, None)}  # they hang on a graph, which cannot be copied


def rank_all(importance_BN: Tensor) -> Tensor:
    """All places: the class token, then the others by falling importance; what is masked is least important and comes last."""
    others = importance_BN.detach()[:, 1:].argsort(dim=1, descending=True, stable=True) + 1
    return nn.functional.pad(others, (1, 0))


class SearchBlock(ReducedBlock):
    """A block that masks in training and removes in evaluation."""

    reduction: SearchedReduction

    def forward(self, tokens: Tokens) -> Tokens:
        if not self.training:
            return super().forward(tokens)
        query, key, value = self.project(tokens.features)
        ones = query.new_ones(tokens.features.shape[:2])
        size = ones if tokens.size is None else tokens.size
        mask = ones if tokens.mask is None else tokens.mask
        logits = query @ key.transpose(-2, -1) + size.log()[:, None, None, :]
        attention = masked_softmax(logits, mask)
        timm_attention: Any = self.attn
        features = self.add_attention(tokens.features, timm_attention.attn_drop(attention) @ value)
        return self.add_mlp(self.reduction.mask_tokens(Tokens(features, size, mask), attention[:, :, 0].mean(dim=1)))


class RateSearch(TrainingHook):
    """The search in a model: one call of `update` before each training pass, then cross entropy + `budget_loss()`.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=16, depth=3, num_heads=2)
        >>> search = RateSearch(model, gmacs_ratio=0.7, granularity=1)
        >>> optimizer = torch.optim.AdamW(search.parameters(), lr=0.01, weight_decay=0.0)
        >>> images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> for _ in range(2):
        ...     search.update()
        ...     loss = nn.functional.cross_entropy(model(images), labels) + search.budget_loss()
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> search.schedule().kept_tokens(17)
        (17, 10, 10)
        >>> state = model.state_dict()  # holds the logits; `load_state_dict` takes them back
        >>> schedule = search.finish()  # the model is plain again: give its bundle the schedule with `apply_schedule`
    """

    name = "diffrate"

    def __init__(
        self,
        model: nn.Module,
        *,
        gmacs_ratio: float,
        granularity: int = 4,
        operations: Operations = "both",
        first_block: int = 1,
        last_blocks_whole: int | None = None,
        min_patches: int = 1,
        budget_form: Literal["auto", "absolute", "relative"] = "auto",
        budget_weight: float | None = None,
        free_epochs: int = 0,
        final_rate_factor: float | None = None,
        epochs: int = 1,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        """Change `model` in place; `finish` changes it back.

        Args:
            model: a timm VisionTransformer, already trained.
            gmacs_ratio: budget, as a share of the dense model's multiply-accumulates.
            granularity: g, patches between neighbouring candidates.
            operations: which of pruning and merging there are.
            first_block: blocks before it keep all tokens.
            last_blocks_whole: so many last blocks keep all that they get; None: 1 for mean-pooled models, else 0.
            min_patches: the smallest candidate.
            budget_form: see `budget_loss`; auto: absolute from 1 GMAC on.
            budget_weight: lambda; None: 5 for absolute, 106 for relative.
            free_epochs: epochs at the start in which the budget does not count.
            final_rate_factor: learning rate at the end of the cosine over epochs, as a share of the first; None: constant.
            epochs: of the whole search, for that cosine.
            image_shape: needed for embeddings of more than one convolution.

        Raises:
            ValueError: the model is no plain Vision Transformer, or the budget is out of reach.
        """
        depth = len(getattr(model, "blocks", ()))
        self.model, self._blocks, self._class = model, getattr(model, "blocks", None), type(model)
        reduce_blocks(model, [Reduction() for _ in range(depth)])
        shape = vit_shape(model, image_shape=image_shape)
        active = active_blocks(shape, first_block=first_block, last_blocks_whole=last_blocks_whole)
        self.shape: ViTShape = shape
        self.free_epochs, self.final_rate_factor, self.epochs = free_epochs, final_rate_factor, epochs
        self.reductions = [
            _reduction(
                shape,
                active=block in active,
                operations=operations,
                granularity=granularity,
                min_patches=min_patches,
            )
            for block in range(depth)
        ]
        self.target_macs = gmacs_ratio * shape.dense_macs
        self.budget_form = budget_form
        if budget_form == "auto":
            self.budget_form = "absolute" if shape.dense_macs >= PUBLISHED_SIZE_GMACS * 1e9 else "relative"
        default = ABSOLUTE_WEIGHT if self.budget_form == "absolute" else RELATIVE_WEIGHT
        self.budget_weight = default if budget_weight is None else budget_weight
        self.budget_counts = True
        self.macs: Tensor | None = None
        self._before: list[Tensor] = []
        self._learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        model.requires_grad_(False)
        vit: Any = model
        vit.blocks = nn.Sequential(*(SearchBlock(*pair) for pair in zip(vit.blocks, self.reductions, strict=True)))
        vit.train(vit.training)
        device = next(model.parameters()).device
        for reduction in self.reductions:
            reduction.to(device)
        self._refuse_budget(gmacs_ratio)
        self.update()

    def parameters(self) -> list[nn.Parameter]:
        """The logits of all proxies."""
        return [proxy.logits for reduction in self.reductions for proxy in (reduction.prune, reduction.merge) if proxy]

    def update(self) -> None:
        """Compute masks and counts of the coming pass from the logits, and its cost with gradient."""
        kept: list[Tensor] = []
        current = self.parameters()[0].new_tensor(float(self.shape.num_tokens))
        for reduction in self.reductions:
            reduction.update()
            # The smallest passes its gradient to both rates and to no count before it, as the authors' code does.
            rates = [rate.kept for rate in reduction.rates if rate is not None]
            current = torch.stack([current.detach(), *(rate.detach() for rate in rates)]).min()
            for rate in rates:
                current = current + (rate - rate.detach())
            kept.append(current)
        self.macs = self.shape.macs(kept)
        for module in self.model.modules():  # an embedding's running statistics are weights that rest, too
            if getattr(module, "track_running_stats", False):
                module.eval()

    def budget_loss(self) -> Tensor:
        """How far the pass is from the budget T, with F its multiply-accumulates.

        absolute: lambda * (F / 1e9 - T / 1e9)^2, the reference's.  relative: lambda * ((F - T) / dense)^2, the same at DeiT-S
        with lambda = 106, for models whose cost in G is far below 1.
        """
        assert self.macs is not None
        unit = 1e9 if self.budget_form == "absolute" else self.shape.dense_macs
        weight = self.budget_weight if self.budget_counts else 0.0
        return weight * (self.macs / unit - self.target_macs / unit) ** 2

    def schedule(self) -> TokenSchedule:
        """Counts as the logits have them now; larger ones than the tokens there are mean that nothing happens."""
        for reduction in self.reductions:
            reduction.read_counts()
        return TokenSchedule(
            prune=tuple(reduction.prune_to for reduction in self.reductions),
            merge=tuple(reduction.merge_to for reduction in self.reductions),
        )

    def finish(self) -> TokenSchedule:
        """Take the search out of the model, which is then as it was before, and return what was found."""
        schedule = self.schedule()
        vit: Any = self.model
        vit.blocks = self._blocks
        vit.__class__ = self._class
        for name, parameter in vit.named_parameters():
            parameter.requires_grad_(self._learns[name])
        return schedule

    def parameter_groups(self, model: nn.Module) -> Sequence[ParameterGroup]:
        """The logits, without weight decay."""
        owned = {id(parameter) for parameter in self.parameters()}
        logits = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}
        assert len(logits) == len(owned)
        return [ParameterGroup(name="diffrate_logits", parameters=logits)]

    def before_step(self, step: int, epoch: float) -> None:
        """Update, and say whether the budget counts yet."""
        del step
        self._factor = epoch_rate_factor(int(epoch), epochs=self.epochs, final=self.final_rate_factor)
        self.budget_counts = epoch >= self.free_epochs

    def before_forward(self) -> None:
        """Update: each backward pass uses up the graph of the rates."""
        self.update()

    def before_update(self, step: int) -> None:
        """Remember the logits: see `after_step`."""
        del step
        self._before = [parameter.detach().clone() for parameter in self.parameters()] if self._factor != 1.0 else []

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Shorten the update by the epoch's factor: without weight decay that is AdamW at a smaller learning rate."""
        del step
        for parameter, before in zip(self.parameters(), self._before, strict=False):
            parameter.copy_(torch.lerp(before, parameter, self._factor))

    def metrics(self) -> Mapping[str, float]:
        """Counts and expectations of every block, and the cost."""
        schedule, shape = self.schedule(), self.shape
        kept = schedule.kept_tokens(shape.num_tokens)
        figures = {"gmacs_ratio": shape.macs(kept) / shape.dense_macs}
        for block, reduction in enumerate(self.reductions):
            figures[f"kept_tokens.{block}"] = float(kept[block])
            for word, proxy in (("prune", reduction.prune), ("merge", reduction.merge)):
                if proxy is not None:
                    figures[f"{word}_expected.{block}"] = float(proxy().expected.detach()) + 1
        return figures

    def _refuse_budget(self, gmacs_ratio: float) -> None:
        shape = self.shape
        least: list[int] = []
        for reduction in self.reductions:
            proxies = [proxy for proxy in (reduction.prune, reduction.merge) if proxy is not None]
            before = least[-1] if least else shape.num_tokens
            least.append(min([before, *(int(proxy.candidates[-1]) + 1 for proxy in proxies)]))
        lowest = shape.macs(least) / shape.dense_macs
        if not lowest <= gmacs_ratio < 1:
            self.finish()
            raise ValueError(
                f"compress_tokens.diffrate: gmacs_ratio {gmacs_ratio:.4g} of {shape.dense_macs / 1e9:.4g} GMACs is out of "
                f"reach; expected {lowest:.4f} to below 1. Smaller granularity, min_patches or first_block reach further down"
            )


def active_blocks(shape: ViTShape, *, first_block: int, last_blocks_whole: int | None) -> range:
    """Blocks that may hand on fewer tokens than they get; see `RateSearch`."""
    whole = int(shape.mean_pooled) if last_blocks_whole is None else last_blocks_whole
    return range(first_block, shape.depth - whole)


def epoch_rate_factor(epoch: int, *, epochs: int, final: float | None) -> float:
    """Share of the learning rate that epoch `epoch` uses: f + (1 - f) * (1 + cos(pi t / epochs)) / 2, t = max(epoch - 1, 0).

    The authors move the schedule after an epoch, with that epoch's own number: of 3 epochs the first two have the full rate.
    """
    done = max(epoch - 1, 0) / epochs
    return 1.0 if final is None else final + (1 - final) * (1 + cos(pi * done)) / 2


def _reduction(
    shape: ViTShape, *, active: bool, operations: Operations, granularity: int, min_patches: int
) -> SearchedReduction:
    def proxy(word: Operations) -> RateProxy | None:
        wanted = active and operations in (word, "both")
        return RateProxy(shape.num_patches, granularity=granularity, min_patches=min_patches) if wanted else None

    return SearchedReduction(proxy("prune"), proxy("merge"), num_tokens=shape.num_tokens)
