"""Stage ``backbone``: the weights that are adapted."""

from __future__ import annotations

from torch import nn

from glora_automl.pipeline._run import Run
from glora_automl.study import BackboneOutcome, Stage
from glora_automl.training import tensor_digest
from glora_automl.workers import Claim, Work

__all__ = ["load_backbone"]


def load_backbone(run: Run) -> Run:
    """Return the run with its backbone, which the first worker creates.

    A pretrained or local backbone is an artifact of the study. Other weights come from timm's hub
    and are checked by digest.
    """
    created: list[nn.Module] = []

    def create(claim: Claim) -> BackboneOutcome:
        model = run.context.create_backbone()
        created.append(model)
        if not run.context.recipe.backbone.is_local:
            return BackboneOutcome(tensor_digest(model.state_dict()))
        return BackboneOutcome(*run.upload(Stage.BACKBONE, model.state_dict()))

    outcome = run.stages.run_one(Stage.BACKBONE, Work(BackboneOutcome, create))
    run.record("backbone", outcome.to_json())
    if created:
        model = created[-1]
    elif outcome.artifact is None:
        model = run.context.create_backbone()
    else:
        model = run.context.bare_backbone()
        model.load_state_dict(run.download(outcome.artifact))
    run.check_digest("backbone", outcome.digest, model.state_dict())
    return run.with_context(run.context.with_backbone(model))
