"""The stages `pretrain.classifier`, `pretrain.diffusion` and `pretrain.restoration`: build a network, train it, hand it out.

Source: Smith and Topin 2017, arXiv 1708.07120 (OneCycle); Loshchilov and Hutter 2017, arXiv 1711.05101 (AdamW). Denoisers: Ho,
Jain, Abbeel 2020, arXiv 2006.11239 (the loss, the linear schedule); Nichol and Dhariwal 2021, arXiv 2102.09672 (the cosine
schedule); Peebles and Xie 2022, arXiv 2212.09748 (DiT). Restorers: Kim, Lee, Lee 2015, arXiv 1511.04587 (VDSR).
"""

from __future__ import annotations

from stages.contract import StageContext, StageResult
from stages.data.base import load_stage_data
from stages.models.bundle import build_bundle
from stages.ops.seeding import prepare_process
from stages.ops.seeds import derive_seed
from stages.pretrain.architectures import architecture_of
from stages.training.loop import train
from stages.training.model_artifact import deliver_model
from stages.training.settings import CompiledTrainingSettings
from stages.training.tasks.base import task_of


def run(context: StageContext) -> StageResult:
    """Train the network that the settings name from its initial weights, for its task.

    Raises:
        ValueError: the model is unknown, does not fit the images, or a setting does not fit the data.
        TrainingDiverged: the loss or a weight stopped being finite.
    """
    prepare_process(context)
    settings = context.settings
    assert isinstance(settings, CompiledTrainingSettings)
    data = load_stage_data(context)
    bundle = build_bundle(architecture_of(settings, data), seed=derive_seed(context.seed, "weights"))
    report = train(bundle.model, data=data, settings=settings, context=context, compiles=settings.compile, task=task_of(bundle))
    return deliver_model(bundle, context=context, report=report)
