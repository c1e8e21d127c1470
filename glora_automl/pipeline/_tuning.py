"""Stage ``tune``: settings of the recipe that short trainings choose."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sklearn.model_selection import StratifiedGroupKFold

from glora_automl.backbones import fit_head
from glora_automl.errors import DivergenceError
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._standalone import validate
from glora_automl.pipeline._training import TrainingJob, new_supernet
from glora_automl.progress import Progress
from glora_automl.recipes import nested
from glora_automl.samplers import RepairedSampler, trial_positions
from glora_automl.study import Spent, Stage, TuneOutcome
from glora_automl.supernet import widest_architecture
from glora_automl.training import Score, evaluate
from glora_automl.workers import Claim, Evaluation, Work, run_trials

__all__ = ["fold_contexts", "fold_of", "pruning_epoch", "tune", "tuning_study_name"]

N_STARTUP_TRIALS = 5
"""Complete trials before the sampler models them and the pruner ends others."""


def tuning_study_name(name: str, key: str) -> str:
    """Return the name of the Optuna study of a study's tuning; other settings have another one.

    Args:
        name: Name of the study.
        key: Its key.

    Example:
        >>> tuning_study_name("digits", "0123456789")
        'digits/tuning-01234567'
    """
    return f"{name}/tuning-{key[:8]}"


def tune(run: Run) -> Run:
    """Return the run with the settings that its recipe's short trainings choose.

    The trials are those of an Optuna study of their own, which all workers share.

    Args:
        run: The study with its backbone.
    """
    context = run.context
    if not context.recipe.tuning_space():
        return run
    outcome = context.process_group.from_main(partial(_tune_here, run))
    changed = context.recipe.replace(**nested(outcome.settings))
    return run.with_context(context.with_recipe(changed))


def _tune_here(run: Run) -> TuneOutcome:
    outcome = run.stages.outcome(Stage.TUNE, TuneOutcome)
    if outcome is not None:
        return outcome
    study = _open_study(run)

    def target() -> int:
        run.check_settings()
        return run.context.recipe.tune.n_trials

    run_trials(
        study,
        Tuning(run).propose,
        worker=run.worker,
        target=target,
        progress=run.context.progress,
        title="Tune the recipe",
        monitor=_Best(),
    )
    return run.stages.run_one(Stage.TUNE, Work(TuneOutcome, partial(_choose, run, study)))


def _open_study(run: Run) -> optuna.Study:
    """Create or load the study of the trials, with its first proposals."""
    recipe = run.context.recipe
    study = optuna.create_study(
        study_name=tuning_study_name(run.study.study_name, run.stages.key),
        storage=run.worker.storage,
        direction="minimize",
        sampler=_sampler(recipe.tuning_space(), recipe.tune.sampler, recipe.seed),
        pruner=MedianPruner(n_startup_trials=N_STARTUP_TRIALS),
        load_if_exists=True,
    )

    def enqueue() -> None:
        for settings in recipe.tuning_proposals()[: recipe.tune.n_trials]:
            study.enqueue_trial(settings, skip_if_exists=True)

    # One worker at a time: two would queue each proposal twice.
    run.stages.exclusively(f"{Stage.TUNE}-proposals", enqueue)
    return study


class _Best:
    """The best trial so far, for the display."""

    def __init__(self) -> None:
        self._best = math.inf

    def see(self, trials: Sequence[FrozenTrial]) -> None:
        """Add finished trials."""
        values = (trial.value for trial in trials if trial.value is not None)
        self._best = min(self._best, *values, math.inf)

    def state(self, *, target: int, running: Sequence[FrozenTrial]) -> str:
        """Return the best loss."""
        return f"best loss {self._best:+.3f} against a linear probe"


def _sampler(space: Mapping[str, BaseDistribution], name: str, seed: int) -> BaseSampler:
    """Return one of Optuna's samplers, seeded by the position of each trial."""
    makers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda drawn: TPESampler(seed=drawn, n_startup_trials=N_STARTUP_TRIALS),
        "gp": lambda drawn: GPSampler(seed=drawn, n_startup_trials=N_STARTUP_TRIALS),
        "random": lambda drawn: RandomSampler(seed=drawn),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RepairedSampler(makers[name], space, None, seed)


def fold_contexts(context: Context, n_folds: int) -> list[Context]:
    """Return the context with each fold of its labelled images as validation images.

    Folds are stratified, and copies of one image are in one fold. There are fewer folds if no
    class has as many images.

    Args:
        context: The recipe on this machine.
        n_folds: Number of folds.
    """
    labels = context.labelled[1].cpu().numpy()
    different, copies = np.unique(context.task.labelled_digests(), return_inverse=True)
    n_folds = min(n_folds, int(np.bincount(labels).max()), len(different))
    if n_folds < 2:
        return [context.holding_out()]  # nothing to split
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=context.recipe.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer images than folds
        folds = list(splitter.split(np.zeros(len(labels)), labels, copies))
    found = [context.fold(*fold) for fold in folds if all(map(len, fold))]
    return found or [context.holding_out()]


def fold_of(position: int, n_folds: int) -> int:
    """Return the fold that judges a trial, by the trial's position.

    As many trials in a row as there are folds share one. So the first settings, those of the
    portfolio, are compared on the same images, and a later fold judges what the sampler proposes.

    Example:
        >>> [fold_of(position, 2) for position in range(6)]
        [0, 0, 1, 1, 0, 0]
    """
    return position // n_folds % n_folds


def pruning_epoch(ratio: float, epochs: int) -> int | None:
    """Return the epochs after which a trial may be pruned; None if it ends there in any case.

    Example:
        >>> pruning_epoch(0.5, 6), pruning_epoch(0.5, 1)
        (3, None)
    """
    epoch = max(1, round(ratio * epochs))
    return epoch if epoch < epochs else None


class Tuning:
    """The objective of a tuning: the loss of a short training on one fold.

    The value is the temperature-scaled loss minus that of a linear probe on the same fold, as
    some folds are harder than others.

    Args:
        run: The study with its backbone.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        # Its trainings are one step each of the stage's display.
        self._context = replace(run.context, progress=Progress())
        self._probe_losses: dict[int, float] = {}

    @cached_property
    def _folds(self) -> list[Context]:
        return fold_contexts(self._context, self._context.recipe.tune.n_folds)

    def propose(self, trial: optuna.Trial) -> Callable[[], Evaluation]:
        """Suggest the settings of a trial; return the function that evaluates them."""
        space = self._context.recipe.tuning_space()
        settings = {key: _suggest(trial, key, space[key]) for key in space}
        # A retried trial has another number, but keeps its position.
        positions = trial_positions(trial.study.get_trials(deepcopy=False))
        fold = fold_of(positions[trial.number], len(self._folds))
        trial.set_user_attr("fold", fold)
        return partial(self._evaluate, trial, settings, fold)

    def _evaluate(self, trial: optuna.Trial, settings: dict[str, Any], fold: int) -> Evaluation:
        own = self._folds[fold]
        context = own.with_recipe(own.recipe.replace(**nested(settings)))
        probe = self._probe_loss(fold)
        ratio = context.recipe.tune.epochs_ratio
        supernet = new_supernet(context)
        supernet.activate(widest_architecture(context.space))
        text = json.dumps([settings, fold], sort_keys=True)
        detail = f"-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        checkpoint = self._run.checkpoint(Stage.TUNE, detail)
        job = TrainingJob(context, f"{Stage.TUNE}-{fold}", "", context.train, ratio, checkpoint)
        decided_at = pruning_epoch(context.recipe.tune.prune_ratio, job.settings.epochs)
        begin, is_decided = time.monotonic(), False
        n_epochs, n_lost, n_validated = 0, 0, 0

        def on_epoch(epoch: int) -> None:
            nonlocal n_epochs, n_lost, n_validated, is_decided
            n_lost += n_epochs if epoch <= n_epochs else 0  # a restart after a collapse
            n_epochs = epoch
            if decided_at is not None and decided_at <= epoch and not is_decided:
                is_decided = True
                if not is_reported:  # before an interruption
                    n_validated += 1
                    trial.report(_loss(validate(context, supernet)) - probe, step=0)
                if trial.should_prune():
                    raise optuna.TrialPruned

        attributes: dict[str, Any] = {"probe_loss": round(probe, 6)}
        n_validation = len(context.validation[1])
        is_reported = 0 in trial.storage.get_trial(trial._trial_id).intermediate_values
        try:
            spent = job.run(supernet, on_epoch=on_epoch)
        except optuna.TrialPruned:
            n_trained = (n_lost + n_epochs) * len(context.train[1])
            seconds = round(time.monotonic() - begin, 3)
            spent = Spent(n_trained, n_validated * n_validation, seconds)
            _remove(checkpoint)
            return Evaluation((), attributes | {"spent": spent._asdict()}, pruned=True)
        except DivergenceError as error:
            # As bad as a guess, which is the highest loss after temperature scaling.
            loss = math.log(len(context.task.classes))
            spent = Spent(error.n_images, 0, error.seconds)
        else:
            score = validate(context, supernet)
            n_validated += 1
            loss = _loss(score)
            attributes["validation_accuracy"] = score.accuracy
        spent = spent.plus(Spent(0, n_validated * n_validation))
        _remove(checkpoint)
        return Evaluation((loss - probe,), attributes | {"spent": spent._asdict()})

    def _probe_loss(self, fold: int) -> float:
        """Return the loss of a linear probe on a fold; 0 where the model has none."""
        if fold not in self._probe_losses:
            context = self._folds[fold]
            model = context.backbone()
            fitted = fit_head(model, *context.train)
            score = evaluate(model, *context.validation, scale_temperature=True)
            self._probe_losses[fold] = _loss(score) if fitted else 0.0
        return self._probe_losses[fold]


def _remove(checkpoint: Path) -> None:
    """Remove the files of a trial that has ended; a stopped one continues from them."""
    for file in checkpoint.parent.glob(f"{checkpoint.stem}*"):
        file.unlink(missing_ok=True)


def _loss(score: Score) -> float:
    assert score.scaled_loss is not None
    return score.scaled_loss


def _suggest(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        low, high, step = distribution.low, distribution.high, distribution.step
        return trial.suggest_int(key, low, high, step=step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        key, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def _choose(run: Run, study: optuna.Study, claim: Claim) -> TuneOutcome:
    """Return the best settings, and the work of all trials."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(complete, key=lambda trial: (trial.value, trial.number))
    spent = Spent()
    for trial in trials:
        spent = spent.plus(Spent(**trial.user_attrs["spent"]))
    own = run.context.recipe.tuning_proposals()[0]
    changed = {key: value for key, value in best.params.items() if value != own[key]}
    text = ", ".join(f"{key} = {value}" for key, value in changed.items()) or "the recipe itself"
    run.context.progress.log(f"Tuned recipe: {text}.")
    assert best.value is not None
    return TuneOutcome(settings=best.params, trial=best.number, value=best.value, spent=spent)
