"""Search as a scikit-learn classifier of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import optuna
import torch
from optuna.storages import BaseStorage
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import nn

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.backbones import input_format
from glora_automl.budget import Budget
from glora_automl.commands import search
from glora_automl.estimator._logits import stable_logits
from glora_automl.estimator._pictures import picture_shape
from glora_automl.estimator._pixels import (
    Pixels,
    check_pixel_parameters,
    checked_rows,
    checked_weights,
    infer_shape,
)
from glora_automl.estimator._saved import Saved
from glora_automl.estimator._settings import (
    CONSTRAINTS,
    NESTED,
    bare_backbone,
    build_recipe,
    nested_names,
    resolve_seed,
    study_name,
    study_places,
    with_nested,
)
from glora_automl.export import (
    Adapter,
    Backbone,
    Preprocessing,
    Record,
    attach_adapter,
    read_adapter,
    save_adapter,
)
from glora_automl.pipeline import Workspace, resolve_device
from glora_automl.progress import LineProgress, Progress
from glora_automl.search_space import SearchSpaceSpec
from glora_automl.study import read_recipe
from glora_automl.tasks import ImageSet
from glora_automl.training import batches, load_checkpoint

__all__ = ["GLoRAClassifier"]

BATCH_SIZE = 256
"""Images per forward pass."""


class GLoRAClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifier of images: a timm model with an adapter that is searched under a budget.

    The search uses the recipe ``own`` on arrays in memory. Images are numbers of shape ``(n,
    height, width)``, ``(n, height, width, channels)`` or ``(n, features)``, or a list, column or
    frame of paths, Pillow images or arrays. Files and images of several sizes are resized to the
    size of the model; arrays of several sizes must be uint8. A prediction resizes them to the
    fitted size. Arrays are resized only where pixels are from 0 to 255. A part of the fitted
    images is the validation set; none is a test image. The same ``random_state`` gives the same
    classifier on the same machine.

    Args:
        model: Model name for ``timm.create_model``, or ``auto`` for the best of a short list.
        pretrained: Whether timm downloads pretrained weights.
        model_kwargs: Further arguments of ``timm.create_model``, such as ``{"img_size": 32}``.
        budget: Largest number of trainable parameters, without the classifier head: ``12000``,
            ``"12k"`` or ``"1%"`` of the model's.
        architecture: Architecture that is trained without a search: an
            :class:`~glora_automl.Architecture`, a preset (``"lora"`` with the highest rank that
            fits the budget, ``"lora-4"``, ``"bitfit"``, ``"ssf"``, ``"probe"``), or the path of a
            file.
        search_space: Name of a search space, path of a TOML file, or a specification.
        epochs: Epochs of the supernet; other trainings are shares of it. First, four short ones
            choose settings of the recipe, which ``settings={"tune": {"n_trials": 0}}`` leaves out.
        n_trials: Trials of the search.
        timeout: Seconds from the call of ``fit`` after which no trial begins, as for
            :func:`glora_automl.search`; trainings after the search come on top.
        validation_size: Number or fraction of the images that are validation images.
        class_weight: Weight of each label in the loss, or ``balanced`` for the inverse of its
            number of images. A label that is left out has 1.
        scoring: Metric that selects the adapter, and that :meth:`score` returns: ``accuracy``,
            ``balanced_accuracy``, ``f1_macro``, ``roc_auc_ovr`` or ``neg_log_loss``.
        settings: Further keys of a recipe, such as ``{"training": {"lr": 1e-3}}``. A grid search
            sets one of them as ``settings__training__lr``.
        image_shape: ``(height, width)`` or ``(height, width, channels)`` of images in rows. One of
            them may be -1. None is a square of grey pixels.
        pixel_range: Values of black and white. None is 0 and 255 for uint8, else the smallest and
            the largest fitted value. Values outside are clipped.
        random_state: Seed of all randomness.
        device: ``auto``, or a device that torch knows.
        storage: URL of a database, path of a journal file, or an Optuna storage. The same fit with
            an integer ``random_state`` resumes its study, or joins its workers. None is a database
            in ``memory``, or else no file at all.
        memory: Folder that keeps the studies of fits. A fit with the same data, settings and
            integer ``random_state`` finds its supernet, trials and result there. With a
            ``storage``, it has the files of its studies.
        verbose: Whether progress is printed.

    Attributes:
        classes_: The labels, ``(n_classes,)``, in the order of the probabilities.
        n_features_in_: Numbers per image.
        image_shape_: Height, width and channels.
        best_architecture_: The selected architecture.
        model_: The timm model with the adapter merged, at the model's own speed, and its classes
            and preprocessing in ``pretrained_cfg``.
        study_: The Optuna study; a loaded classifier has none.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> x, y = load_digits(n_class=3, return_X_y=True)
        >>> tiny = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}
        >>> classifier = GLoRAClassifier(
        ...     "vit_tiny_patch16_224", pretrained=False, model_kwargs=tiny, budget="20%",
        ...     epochs=10, n_trials=4, settings={"training": {"lr": 0.01, "batch_size": 32}},
        ...     random_state=0,
        ... ).fit(x[:400], y[:400])
        >>> classifier.predict_proba(x[400:]).shape
        (137, 3)
        >>> bool(classifier.score(x[400:], y[400:]) > 0.7)
        True
    """

    _parameter_constraints = CONSTRAINTS

    classes_: np.ndarray
    image_shape_: tuple[int, int, int]
    best_architecture_: Architecture
    model_: nn.Module
    study_: optuna.Study

    def __init__(
        self,
        model: str = "vit_base_patch16_224.augreg_in21k",
        *,
        pretrained: bool = True,
        model_kwargs: Mapping[str, Any] | None = None,
        budget: Budget | int | str = "1%",
        architecture: str | Architecture | None = None,
        search_space: str | SearchSpaceSpec = "lean",
        epochs: int = 100,
        n_trials: int = 100,
        timeout: float | None = None,
        validation_size: int | float = 0.2,
        class_weight: Mapping[Any, float] | str | None = None,
        scoring: str = "accuracy",
        settings: Mapping[str, Any] | None = None,
        image_shape: Sequence[int] | None = None,
        pixel_range: Sequence[float] | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        storage: str | BaseStorage | None = None,
        memory: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.pretrained = pretrained
        self.model_kwargs = model_kwargs
        self.budget = budget
        self.architecture = architecture
        self.search_space = search_space
        self.epochs = epochs
        self.n_trials = n_trials
        self.timeout = timeout
        self.validation_size = validation_size
        self.class_weight = class_weight
        self.scoring = scoring
        self.settings = settings
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.random_state = random_state
        self.device = device
        self.storage = storage
        self.memory = memory
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")  # a failed fit has set n_features_in_ already

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Search and train an adapter.

        Args:
            X: Images.
            y: Labels ``(n,)`` of at least two classes.
            sample_weight: Weight of each image in the losses of trainings and in the initial head,
                ``(n,)``. Images of weight 0 are left out. Validation counts images.

        Raises:
            ValueError: If ``X``, ``y`` or a parameter is malformed.
            GLoRAError: If the settings contradict each other.
        """
        self._validate_params()
        check_pixel_parameters(self.image_shape, self.pixel_range)
        parameters = self.get_params(deep=False)
        rows, y, shape = checked_rows(
            self, X, y, resized=lambda: picture_shape(build_recipe(parameters, 0).backbone)
        )
        check_classification_targets(y)
        weights: tuple[np.ndarray, ...] = ()
        if sample_weight is not None:
            found = checked_weights(sample_weight, len(rows))
            rows, y, weights = rows[found > 0], y[found > 0], (found[found > 0],)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                "The y of GLoRAClassifier must have at least two classes, got 1 class: "
                f"{classes[0]!r}. Add images of another class."
            )
        shape = shape or infer_shape(rows.shape[1], self.image_shape)
        pixels = Pixels.from_rows(rows, shape, self.pixel_range)
        arrays = pixels.images(rows), labels, *weights
        recipe = build_recipe(parameters, resolve_seed(self.random_state), classes.tolist())
        name = study_name(recipe, *arrays)
        with study_places(self.memory, self.storage) as (runs, storage):
            result = search(
                recipe,
                name=name,
                arrays=arrays,
                timeout=self.timeout,
                workspace=Workspace(
                    runs=runs,
                    storage=storage,
                    device=self.device,
                    progress=LineProgress(print) if self.verbose else Progress(),
                ),
            )
            winner = load_checkpoint(runs / name / "winner.json")
        validation = result.rows[0].validation
        assert winner is not None
        assert validation is not None
        self._backbone, self._seed = read_recipe(result.study).backbone, recipe.seed
        names = tuple(map(str, classes))
        record = Record(
            kind="adapter",
            classes=names,
            preprocessing=Preprocessing.of(input_format(result.model, self._backbone)),
            backbone=Backbone.of(self._backbone, bare_backbone(self._backbone, names, self._seed)),
            architecture=result.selection.architecture,
            n_params=result.selection.n_params,
            about={"validation": validation._asdict()},
        )
        record.configure(result.model)
        self._set_fitted(classes, pixels, Adapter(record, winner[0]), result.model)
        self.study_ = result.study
        return self

    def _set_fitted(
        self, classes: np.ndarray, pixels: Pixels, adapter: Adapter, model: nn.Module
    ) -> None:
        self.classes_ = classes
        self.image_shape_ = pixels.shape
        self.best_architecture_ = adapter.architecture
        self.model_ = model
        self._pixels = pixels
        self._adapter = adapter

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities ``(n, n_classes)`` of the labels in :attr:`classes_`.

        Args:
            X: Images of the fitted shape.
        """
        check_is_fitted(self)
        rows, _, shape = checked_rows(
            self, X, resized=lambda: self.image_shape_, fitted=self._pixels
        )
        if shape not in (None, self.image_shape_):
            raise ValueError(
                f"The images of X must have the shape {self.image_shape_} as in fit, got {shape}. "
                "Reshape X."
            )
        device = next(self.model_.parameters()).device
        pixels = torch.from_numpy(self._pixels.images(rows)).permute(0, 3, 1, 2).contiguous()
        images = ImageSet(pixels, torch.zeros(len(rows), dtype=torch.int64))
        x, _ = images.prepare(self._adapter.record.preprocessing.format, device)
        parts = [slice(start, start + BATCH_SIZE) for start in range(0, len(rows), BATCH_SIZE)]
        with torch.inference_mode():
            logits = torch.cat([stable_logits(self.model_, batch) for batch in batches(x, parts)])
        return np.asarray(logits.softmax(dim=1).cpu().numpy())

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms ``(n, n_classes)`` of :meth:`predict_proba`.

        Args:
            X: Images of the fitted shape.
        """
        with np.errstate(divide="ignore"):  # the logarithm of 0 is minus infinity
            return np.asarray(np.log(self.predict_proba(X)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the value of ``scoring`` on images.

        Args:
            X: Images of the fitted shape.
            y: Their labels ``(n,)``.
            sample_weight: Weight of each image in the mean, ``(n,)``.
        """
        scorer = get_scorer(self.scoring)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(scorer(self, X, y, **weights))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name.

        Args:
            deep: Whether the single settings have names, too, such as ``settings__training__lr``.
        """
        found: dict[str, Any] = super().get_params(deep)
        return {**found, **nested_names(self.settings)} if deep else found

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, single settings as ``settings__training__lr``."""
        own = {key: value for key, value in params.items() if not key.startswith(NESTED)}
        super().set_params(**own)
        single = {key: value for key, value in params.items() if key.startswith(NESTED)}
        if single:
            self.settings = with_nested(self.settings or {}, single)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the most likely label of each image, ``(n,)``.

        Args:
            X: Images of the fitted shape.
        """
        indices = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[indices])

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the adapter as an export of kind ``adapter``, without pickles.

        The record holds name and weight digest of the backbone.

        Args:
            path: The folder, which must not exist.
            force: Whether an existing export is replaced.

        Raises:
            ExportError: If ``path`` exists, unless it is an export and ``force`` is set.
        """
        check_is_fitted(self)
        saved = Saved(
            parameters=self.get_params(deep=False),
            backbone=self._backbone,
            seed=self._seed,
            classes=self.classes_,
            pixels=self._pixels,
            names=tuple(map(str, getattr(self, "feature_names_in_", ()))),
        )
        save_adapter(path, saved.put_into(self._adapter), force=force)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Self:
        """Read a classifier that :meth:`save` wrote.

        Args:
            path: Folder of the classifier.
            device: ``auto``, or a device that torch knows.

        Raises:
            ExportError: If the folder is no classifier, a file is altered, or timm's weights differ
                from those of the fit.
        """
        adapter = read_adapter(path)
        saved = Saved.from_adapter(adapter, str(path))
        model = bare_backbone(saved.backbone, adapter.classes, saved.seed)
        attach_adapter(model, adapter, name=str(path))
        merge(model)
        classifier = cls(**saved.parameters, device=device)
        classifier._backbone, classifier._seed = saved.backbone, saved.seed
        classifier._set_fitted(
            saved.classes, saved.pixels, adapter, model.to(resolve_device(device))
        )
        classifier.n_features_in_ = math.prod(saved.pixels.shape)
        if saved.names:
            classifier.feature_names_in_ = np.array(saved.names, dtype=object)
        return classifier
