"""Sections ``[supernet]``, ``[search]`` and ``[selection]`` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from glora_automl._declarations import Bool, Declaration, Float, Int

__all__ = ["SearchSettings", "SelectionSettings", "SupernetSettings"]


class SupernetSettings(Declaration):
    """The weight-shared supernet.

    Attributes:
        paths: What each training step updates. ``wide`` trains all adapters as one network, with
            the widest choice of each support tensor; its subnets are truncations. ``uniform``
            draws one choice per support tensor and step, as in the paper (arXiv 2306.07967).
        epochs_ratio: Epochs of its training, as a multiple of ``training.epochs``.
    """

    paths: Literal["wide", "uniform"] = "wide"
    epochs_ratio: Float = Field(default=1.0, gt=0, le=100)


class SearchSettings(Declaration):
    """The Optuna study of a search.

    Attributes:
        n_trials: Trials to reach. It may be raised while the study is open.
        population_size: Trials per generation; for TPE, its number of random trials.
        n_parents: Best trials that become parents.
        mutation_fraction: Fraction of a generation that is mutated; the rest is crossed over.
        mutation_prob: Probability that a mutation changes a choice.
        objectives: Objectives on the validation images: the cross-entropy ``loss``, ``accuracy``
            or the recipe's ``metric``. ``n_params`` after one of them searches for the whole
            trade-off with as few trainable parameters as possible.
        sampler: ``evolution``, or one of Optuna's with proposals repaired into the budget:
            ``tpe``, ``nsga2``, ``random``.
        initial_presets: Whether the first generation holds presets such as LoRA, as far as they
            fit, in at most half of its places.
        min_budget_fraction: Smallest size of a random architecture, as a fraction of the budget.
            0 spreads them over all sizes, as several objectives do in any case. Without held-out
            images a trial that is smaller than this fraction of the largest one is not selected.
        compile: Whether ``torch.compile`` compiles the model that scores trials, on CUDA with CUDA
            graphs. It takes about a minute per worker, which pays for long searches.
    """

    n_trials: Int = Field(default=100, ge=1, le=1_000_000)
    population_size: Int = Field(default=20, ge=1, le=100_000)
    n_parents: Int = Field(default=5, ge=1, le=100_000)
    mutation_fraction: Float = Field(default=0.5, ge=0, le=1)
    mutation_prob: Float = Field(default=0.2, ge=0, le=1)
    objectives: tuple[Literal["accuracy", "loss", "metric", "n_params"], ...] = ("loss",)
    sampler: Literal["evolution", "tpe", "nsga2", "random"] = "evolution"
    initial_presets: Bool = True
    min_budget_fraction: Float = Field(default=0.5, ge=0, le=1)
    compile: Bool = False

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if objectives[:1] in ((), ("n_params",)) or objectives[1:] not in ((), ("n_params",)):
            raise ValueError(
                "must be ['loss'], ['accuracy'] or ['metric'], each with 'n_params' after it for "
                f"the trade-off, got {list(objectives)}."
            )
        return objectives

    @property
    def is_multi_objective(self) -> bool:
        """Whether few parameters are an objective, too."""
        return len(self.objectives) > 1


class SelectionSettings(Declaration):
    """What happens after the search.

    Attributes:
        holdout: Whether the validation images are held out until the refit. Rows then have a
            validation score, and the better of several candidates is selected. Without, all
            trainings have these images, and each baseline is trained once. By default they are
            held out where something needs it: a margin, a metric as an objective, a given
            architecture, random paths, no refit, or no test images.
        n_candidates: Architectures that are trained on from inherited weights before one is
            selected: the truncation with the largest components, then the best trials. Without
            held-out images the best trial is trained on, with the steps of all; one that is
            smaller than ``search.min_budget_fraction`` allows is left out.
        epochs_ratio: Epochs of that training, as a multiple of ``training.epochs``; 0 keeps the
            inherited weights.
        refit: Whether the selected adapter is then trained on with training and validation images
            together. Where images are held out, baselines are trained again with all of them.
        refit_epochs_ratio: Steps of that training, as a multiple of those of ``training.epochs``.
            Without held-out images those of the candidates come on top.
        baselines: Whether linear probe, LoRA (in attention alone where no rank fits in all layers)
            and BitFit are trained for comparison. With held-out images, a baseline that is shown
            to validate better is selected.
        margin: Points of accuracy that a smaller adapter may lose against the selected one. The
            smallest one that is shown to lose no more is then refit and tested instead; see
            ``docs/explanation/margin.md``.
    """

    holdout: Bool | None = None
    n_candidates: Int = Field(default=2, ge=1, le=1000)
    epochs_ratio: Float = Field(default=0.25, ge=0, le=100)
    refit: Bool = True
    refit_epochs_ratio: Float = Field(default=1.25, ge=0, le=100)
    baselines: Bool = True
    margin: Float | None = Field(default=None, gt=0, le=100)
