"""LBC, LTS and DiffRate, any of them together, in one training run under one schedule.

The parts act in the order in which transforms act: mask, then fake quantization of what the mask leaves, then token reduction.
With one part alone, `lbc` and `lts` train exactly as `sparsify.lbc` and `quantize.lts` do. Together:

- Quantizers see masked weights from the first step on; what a mask removes is exactly 0, outside of the grid. Score gradients
  are those of the weights behind the rounding: a weight beyond its bounds adds nothing to its combinations' scores.
- Bounds start from unmasked weights, since no mask is there yet; they learn along with the masks.
- Nothing freezes before masks are final: a frozen weight has no gradient and would weigh in its combinations no more.
- Rates learn with the weights, up to `search_end`; after it counts are fixed and the weights train on with them.

This departs from DiffRate, which searches rates while trained weights rest; run `compress_tokens.diffrate` for that. Rates here
follow the schedule of the weights, not the authors' cosine over epochs, and running statistics of an embedding go on.

Source: arXiv 2206.06662, 2211.08544, 2305.17997 for the parts; their union is ours and has no published figures.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stages.compress.settings import JointSettings
from stages.compress_tokens.delivery import count_macs, save_pictures, shape_of, token_metrics
from stages.compress_tokens.diffrate import BUDGET_TOLERANCE, budget_ratio
from stages.compress_tokens.search import RateSearch
from stages.contract import StageContext, StageResult
from stages.data.base import Dataset, load_stage_data
from stages.models.bundle import ModelBundle, apply_transform, fold_bundle, load_state
from stages.models.nm_mask import apply_masks
from stages.models.token_reduction import apply_schedule, refuse_model
from stages.models.zoo import build_network
from stages.ops.counting import count_compute
from stages.ops.pattern import NMPattern, parse_pattern
from stages.ops.seeding import prepare_process
from stages.ops.token_budget import TokenSchedule
from stages.quantize.layers import attach_quantizers, layers_asked
from stages.quantize.lts import Freezing, measure_backward_saving
from stages.quantize.settings import LTSSettings
from stages.quantize.training import BoundsHook, first_batch, grid_metrics
from stages.sparsify.combinations import RemovalHook, ScoredCombinations, add_scores
from stages.sparsify.layers import mask_metrics, refuse_transforms, select_layers
from stages.sparsify.settings import LBCSettings
from stages.training.evaluation import evaluate_top1
from stages.training.hooks import ParameterGroup, TrainingHook
from stages.training.loop import train
from stages.training.losses import Loss, cross_entropy_loss
from stages.training.model_artifact import deliver_model, receive_model

STAGE = "compress.joint"


class JointRates(RateSearch):
    """DiffRate's search in a model whose weights learn, too; rates rest from epoch `search_end` on.

    Args:
        learning_rate_multiplier: of the logits, times the learning rate of the weights.
        search_end: number of the first epoch in which rates rest.
        arguments: of `RateSearch`.
    """

    def __init__(self, *arguments: Any, learning_rate_multiplier: float, search_end: int, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.learning_rate_multiplier, self.search_end = learning_rate_multiplier, search_end
        for name, parameter in self.model.named_parameters():
            if name in self._learns:
                parameter.requires_grad_(self._learns[name])

    def parameter_groups(self, model: torch.nn.Module) -> Sequence[ParameterGroup]:
        """The logits, at a learning rate of their own."""
        (group,) = super().parameter_groups(model)
        return [replace(group, learning_rate_multiplier=self.learning_rate_multiplier)]

    def update(self) -> None:
        """As in the search; but running statistics follow the weights that they belong to."""
        super().update()
        for module in self.model.modules():
            if getattr(module, "track_running_stats", False):
                module.train(self.model.training)

    def before_step(self, step: int, epoch: float) -> None:
        """Update; at the end of the search, let the logits rest for good."""
        if int(epoch) >= self.search_end:
            for logits in self.parameters():
                logits.requires_grad_(False)
                logits.grad = None
        super().before_step(step, epoch)

    def finish(self) -> TokenSchedule:
        """Take the search out of the model; what rests by now, such as scores of final masks, goes on resting."""
        self._learns = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        return super().finish()


def run(context: StageContext) -> StageResult:
    """Train the input model with the parts of the settings; the output carries their transforms and no scores or rates.

    Raises:
        ValueError: a layer or the model cannot take a part, the input carries a transform that acts after one of the parts, or
            a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, JointSettings)
    data = load_stage_data(context)
    joint = Joint(receive_model(context, data), settings=settings, data=data, context=context)
    before = evaluate_top1(joint.bundle.model, data.test)
    joint.attach()
    report = train(joint.bundle.model, data=data, settings=settings, context=context, hooks=joint.hooks, loss=joint.loss())
    bundle = joint.settle()
    metrics, measurements = joint.figures(bundle)
    if joint.diffrate is not None:
        save_pictures(bundle, data, folder=context.output)
    result = deliver_model(
        bundle, context=context, report=report, metrics={"initial_top1_accuracy": before.accuracy, **metrics}
    )
    return StageResult(metrics=result.metrics, measurements={**result.measurements, **measurements})


class Joint:
    """The parts in a model while it trains: attached in their order, then settled into plain transforms.

    Raises:
        ValueError: the model cannot take one of the parts; nothing has been changed then.
    """

    def __init__(self, bundle: ModelBundle, *, settings: JointSettings, data: Dataset, context: StageContext) -> None:
        self.bundle, self.settings, self.data, self.context = bundle, settings, data, context
        self.lbc, self.lts, self.diffrate = settings.lbc_settings(), settings.lts_settings(), settings.diffrate_settings()
        self.steps_per_epoch = data.train.num_samples // settings.batch_size
        if self.lbc is not None:
            refuse_transforms(bundle, stage=STAGE)
        if self.lts is not None and any(bundle.has_transform(name) for name in ("fake_quant", "token_reduction")):
            carried = ", ".join(spec.name for spec in bundle.transforms)
            raise ValueError(f"{STAGE}: the model carries {carried}; lts goes on a model that is plain or has masks alone")
        if self.diffrate is not None:
            refuse_model(bundle.model, who=STAGE)
        self.dense_count = count_compute(fold_bundle(bundle), torch.zeros(1, *bundle.architecture.input_spec.shape))
        self.dense_macs = count_macs(bundle)
        self.images = first_batch(data, self.lts, context).images if self.lts is not None else None
        self.scores: dict[str, ScoredCombinations] = {}
        self.freezing: Freezing | None = None
        self.freezing_metrics: dict[str, float] = {}
        self.rates: JointRates | None = None
        self.hooks: tuple[TrainingHook, ...] = ()

    def attach(self) -> None:
        """Change the model in place and make the hooks, in the order in which they are called before each forward pass."""
        hooks: list[TrainingHook] = []
        if self.lbc is not None:
            hooks.append(self._attach_scores(self.lbc))
        if self.lts is not None:
            hooks += self._attach_quantizers(self.lts)
        if self.diffrate is not None:
            hooks.append(self._attach_rates())
        self.hooks = tuple(hooks)

    def loss(self) -> Loss | None:
        """Cross entropy, with the budget where rates are learned; None: the loop's own."""
        rates = self.rates
        if rates is None:
            return None
        classify = cross_entropy_loss(label_smoothing=self.settings.label_smoothing)

        def loss(images: Tensor, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
            return classify(images, logits_BK, labels_B) + rates.budget_loss()

        return loss

    def settle(self) -> ModelBundle:
        """The trained model as a bundle of plain transforms, with the same outputs, on the CPU."""
        if self.freezing is not None:  # shares of what is trained, so while it is
            self.freezing_metrics = dict(self.freezing.metrics())
        schedule = self.rates.finish() if self.rates is not None else None
        self.bundle.model.cpu()
        bundle = self.bundle
        if self.lbc is not None:
            bundle = fix_masks(bundle, self.scores, pattern=parse_pattern(self.lbc.n_m))
        return bundle if schedule is None else apply_schedule(bundle, schedule)

    def figures(self, bundle: ModelBundle) -> tuple[dict[str, Any], dict[str, Any]]:
        """Metrics and measurements of the parts that there are."""
        metrics: dict[str, Any] = {}
        measurements: dict[str, Any] = {}
        if self.lbc is not None:
            metrics.update(mask_metrics(bundle))
        if self.lts is not None:
            assert self.images is not None
            metrics.update({**grid_metrics(bundle), **self.freezing_metrics})
            saved = measure_backward_saving(bundle.model, self.images, skip_frozen=self.lts.skip_frozen)
            measurements["backward_cost_saved_measured"] = saved
        if self.diffrate is not None:
            metrics.update({"budget_error": self._budget_error(), **token_metrics(bundle, dense_macs=self.dense_macs)})
        return metrics, measurements

    def _attach_scores(self, lbc: LBCSettings) -> RemovalHook:
        model, pattern = self.bundle.model, parse_pattern(lbc.n_m)
        names = select_layers(model, pattern=pattern, dense_layers=lbc.dense_layers, on_indivisible=lbc.on_indivisible)
        self.scores = add_scores(model, names, pattern=pattern)
        return RemovalHook(
            self.scores,
            start=lbc.first_removal_epoch,
            end=lbc.last_removal_epoch,
            power=lbc.removal_power,
            learning_rate_multiplier=lbc.score_learning_rate_multiplier,
            weight_decay=lbc.score_weight_decay,
        )

    def _attach_quantizers(self, lts: LTSSettings) -> list[TrainingHook]:
        assert self.images is not None
        layers = layers_asked(self.bundle.model, self.images, lts)
        self.bundle = attach_quantizers(self.bundle, self.images, layers=layers, freezes=True, bounds_init=lts.bounds_init)
        total_steps = self.steps_per_epoch * lts.epochs
        self.freezing = Freezing(
            self.bundle.model,
            total_steps=total_steps,
            warmup_steps=self.settings.freeze_warmup_steps(self.steps_per_epoch),
            mode=lts.threshold_mode,
            fixed_rate=lts.fixed_rate,
            momentum=lts.distance_momentum,
            skip_frozen=lts.skip_frozen,
            macs={**self.dense_count.macs_by_layer, "": self.dense_count.macs},
        )
        return [BoundsHook(learning_rate=lts.bound_learning_rate, settings=lts, total_steps=total_steps), self.freezing]

    def _attach_rates(self) -> JointRates:
        part, own = self.settings.diffrate, self.diffrate
        assert part is not None
        assert own is not None
        self.rates = JointRates(
            self.bundle.model.to(self.context.device),
            gmacs_ratio=budget_ratio(own, shape=shape_of(self.bundle)),
            granularity=own.granularity,
            operations=own.operations,
            first_block=own.first_block,
            last_blocks_whole=own.last_blocks_whole,
            min_patches=own.min_patches,
            budget_form=own.budget_form,
            budget_weight=own.budget_weight,
            free_epochs=own.free_epochs,
            epochs=own.epochs,
            image_shape=self.bundle.architecture.input_spec.shape,
            learning_rate_multiplier=part.rate_learning_rate / own.learning_rate,
            search_end=self.settings.last_search_epoch,
        )
        return self.rates

    def _budget_error(self) -> float:
        assert self.rates is not None
        shape = self.rates.shape
        kept = self.rates.schedule().kept_tokens(shape.num_tokens)
        error = float(shape.macs(kept) / self.rates.target_macs - 1)
        if abs(error) > BUDGET_TOLERANCE:
            warnings.warn(
                f"{STAGE}: the schedule costs {error:+.1%} of the budget. Raise diffrate.search_end, rate_learning_rate (a "
                "logit moves by about that much a step) or budget_weight; on few tokens the steps between counts are coarse",
                stacklevel=2,
            )
        return error


def fix_masks(bundle: ModelBundle, scores: Mapping[str, ScoredCombinations], *, pattern: NMPattern) -> ModelBundle:
    """The same model with fixed masks in the place of scored combinations; other transforms stay.

    It is built anew and takes over the trained state, strictly: what is left when the scores are taken away has to be exactly
    the state of a bundle with masks and the other transforms.

    Args:
        bundle: whose model has `scores`, which its transforms do not record.
        scores: by layer, one combination left in every block.
        pattern: N and M.
    """
    state = bundle.model.state_dict()
    masks: dict[str, Tensor] = {}
    for name, layer in scores.items():
        place = f"{name}.parametrizations.weight"
        masks[name] = layer.mask.clone()
        state[f"{place}.original"] = state[f"{place}.original"] * layer.mask
        del state[f"{place}.0.scores"], state[f"{place}.0.removed"]
    fresh = ModelBundle(architecture=bundle.architecture, model=build_network(bundle.architecture, seed=0))
    fresh = apply_masks(fresh, masks, pattern=pattern)
    for spec in bundle.transforms:
        fresh = apply_transform(fresh, spec.name, spec.settings)
    load_state(fresh.model, state, where="the trained model")
    fresh.model.eval()
    return fresh
