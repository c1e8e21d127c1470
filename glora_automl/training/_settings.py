"""Settings of a training, as recipes declare them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from glora_automl._declarations import Bool, Declaration, Float, Int

__all__ = ["ClassWeight", "TrainingSettings"]

ClassWeight = (
    Literal["none", "balanced"]
    | Annotated[tuple[Annotated[Float, Field(ge=0, le=1e9)], ...], Field(min_length=2)]
)
"""Weights of the classes in the loss."""


class TrainingSettings(Declaration):
    """Settings of AdamW, its cosine schedule and the augmentation.

    Attributes:
        epochs: Passes over the images; may be 0.
        batch_size: Images per step; the last batch of an epoch may be smaller.
        lr: Peak learning rate.
        scaling_lr_ratio: Learning rate of the vectors and scalars that multiply frozen weights
            (``A`` and ``D``), as a multiple of ``lr``. LoRA+ (arXiv 2402.12354) has such a ratio
            for one of LoRA's factors.
        weight_decay: AdamW's decoupled weight decay.
        warmup_epochs: Epochs of linear warm-up, at most ``epochs``, of which they are a part. A
            training of a study has at most half of its own epochs.
        clip_grad: Maximum norm of the gradient; 0 turns clipping off.
        checkpoint_every: Epochs between checkpoints.
        scale: Smallest area of a random crop, which is resized to the whole, as a fraction of the
            image; 1 turns crops off.
        shift: Maximum random shift in each direction, as a fraction of height and width; 0 turns
            shifts off.
        hflip: Probability that an image is mirrored from left to right.
        mixup: Parameter of the beta distribution that mixes pairs of images and their labels
            (arXiv 1710.09412); 0 turns mixup off.
        cutmix: The same for rectangles that are pasted from one image into another (arXiv
            1905.04899). With ``mixup``, each image takes one of both at random.
        precision: Data type of the products in training and in the scores of trials: ``fp32``,
            ``bf16``, ``fp16`` (trained with a scaled loss), or ``auto``, which
            :func:`~glora_automl.training.resolve_precision` describes. Weights stay in float32, and
            selection and test use float32. A study keeps what ``auto`` was at its creation.
        class_weight: Weight of each class in the loss. ``balanced`` is scikit-learn's: inversely
            proportional to its training images, 1 on their mean. Or one weight per class, in the
            order of the classes.
        grad_checkpointing: Recompute activations in the backward pass. It takes a third more
            computation and a fraction of the memory, and gives the same weights. The backbone
            must have timm's ``set_grad_checkpointing``.
    """

    epochs: Int = Field(ge=0, le=1_000_000)
    batch_size: Int = Field(default=64, ge=1, le=1_000_000)
    lr: Float = Field(default=1e-4, gt=0, le=1e6)
    scaling_lr_ratio: Float = Field(default=1.0, gt=0, le=1e4)
    weight_decay: Float = Field(default=1e-4, ge=0, le=100)
    warmup_epochs: Int = Field(default=0, ge=0, le=1_000_000)
    clip_grad: Float = Field(default=1.0, ge=0, le=1e6)
    checkpoint_every: Int = Field(default=10, ge=1, le=1_000_000)
    scale: Float = Field(default=1.0, gt=0, le=1)
    shift: Float = Field(default=0.0, ge=0, le=0.5)
    hflip: Float = Field(default=0.0, ge=0, le=1)
    mixup: Float = Field(default=0.0, ge=0, le=100)
    cutmix: Float = Field(default=0.0, ge=0, le=100)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    class_weight: ClassWeight = "none"
    grad_checkpointing: Bool = False

    @field_validator("class_weight")
    @classmethod
    def _check_class_weight(cls, value: ClassWeight) -> ClassWeight:
        if not isinstance(value, str) and not any(value):
            raise ValueError(
                f"class_weight must have a weight above 0, got {list(value)}. Raise one."
            )
        return value

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if 0 < self.epochs < self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs must be at most the {self.epochs} epochs of the training, got "
                f"{self.warmup_epochs}. Lower it, or raise `epochs`."
            )
        return self
