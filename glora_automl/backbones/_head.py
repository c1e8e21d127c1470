"""Initial values of the classifier head: a logistic regression on frozen features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from glora_automl.adapters import classifiers, evaluation_mode
from glora_automl.training import (
    ClassWeight,
    ImageBatches,
    batch_logits,
    efficient_batch_size,
    weights_of,
)

__all__ = ["fit_head", "frozen_features"]

ABSENT_BIAS = -5.0
"""Logit bias of a class without images."""


@torch.no_grad()
def frozen_features(
    model: nn.Module,
    images: ImageBatches,
    n_images: int,
    on_batch: Callable[[], object] | None = None,
) -> Tensor | None:
    """Return the features that a model's linear classifier gets.

    Args:
        model: Backbone with a classifier that timm's ``get_classifier`` names.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        n_images: Number of images.
        on_batch: Called after each batch.

    Returns:
        Features ``(n, size)`` in float64 on the CPU; None if the model has no single linear
        classifier, does not call it, applies it at several positions, or returns another number of
        logits.

    Raises:
        TrainingError: If memory does not hold a single image.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit", num_classes=2)
        >>> frozen_features(model, torch.randn(6, 3, 160, 160), 6).shape
        torch.Size([6, 64])
    """
    heads = classifiers(model)
    if len(heads) != 1 or not isinstance(heads[0], nn.Linear):
        return None
    kept: list[Tensor] = []
    features: list[Tensor] = []
    hook = heads[0].register_forward_pre_hook(lambda module, args: kept.append(args[0].detach()))
    try:
        with evaluation_mode(model):
            size = efficient_batch_size(model, images[0:1])
            starts = range(0, n_images, size)
            slices = [slice(start, min(start + size, n_images)) for start in starts]
            kept.clear()
            for _, logits in batch_logits(model, images, slices):
                # It is not called, or the logits are not its outputs.
                if not kept or logits.shape[1] != heads[0].out_features:
                    return None
                # A pass that ran out of memory leaves features of its first images before these.
                features.append(torch.cat(kept)[-len(logits) :].cpu().double())
                kept.clear()
                if on_batch is not None:
                    on_batch()
    finally:
        hook.remove()
    found = torch.cat(features)
    return found if found.ndim == 2 else None


@torch.no_grad()
def fit_head(
    model: nn.Module,
    images: ImageBatches,
    labels: Tensor,
    *,
    class_weight: ClassWeight = "none",
) -> bool:
    """Set a linear classifier to a logistic regression on the backbone's frozen features.

    Training then starts from the linear probe's accuracy (Kumar et al., Fine-tuning can distort
    pretrained features, 2022). Other classifiers keep their values.

    Args:
        model: Backbone with a classifier that timm's ``get_classifier`` names.
        images: Normalised images ``(n, channels, height, width)`` on the model's device.
        labels: Class indices ``(n,)``.
        class_weight: Weight of each class, as in the training's settings.

    Returns:
        Whether the classifier was set.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit", num_classes=2)
        >>> fit_head(model, torch.randn(6, 3, 160, 160), torch.arange(6) % 2)
        True
    """
    heads = classifiers(model)
    if len(heads) != 1 or not isinstance(heads[0], nn.Linear) or heads[0].bias is None:
        return False
    head = heads[0]
    if int(labels.min()) == int(labels.max()):
        return False
    features = frozen_features(model, images, len(labels))
    if features is None or not features.isfinite().all():  # the training then tells of it
        return False
    # The penalty is that of a linear probe on a few hundred images with standardized features.
    weight_of: str | dict[int, float] | None = "balanced"
    if class_weight != "balanced":
        weight_of = None if class_weight == "none" else dict(enumerate(class_weight))
    scaler = StandardScaler()
    regression = LogisticRegression(C=0.1, max_iter=2000, class_weight=weight_of)
    weights = weights_of(images)
    regression.fit(
        scaler.fit_transform(features.numpy()),
        labels.cpu().numpy(),
        sample_weight=None if weights is None else weights.cpu().numpy(),
    )
    weight, bias = torch.from_numpy(regression.coef_), torch.from_numpy(regression.intercept_)
    if len(regression.classes_) == 2:  # scikit-learn gives the logit of the second class alone
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / torch.from_numpy(scaler.scale_)
    bias = bias - weight @ torch.from_numpy(scaler.mean_)
    head.weight.zero_()
    head.bias.fill_(ABSENT_BIAS)
    present = torch.from_numpy(regression.classes_).to(head.weight.device)
    head.weight[present] = weight.to(head.weight)
    head.bias[present] = bias.to(head.bias)
    return True
