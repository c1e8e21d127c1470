"""Stage ``search``: the trials of the study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import optuna

from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._initial import unpack_proposals
from glora_automl.pipeline._monitor import Monitor
from glora_automl.pipeline._objective import Objective
from glora_automl.pipeline._recording import trial_recorder
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._sampler import create_sampler, draw_region, repaired
from glora_automl.pipeline._supernet import Trained
from glora_automl.recipes import Recipe
from glora_automl.study import Stage, done_trials, get_setting, set_target
from glora_automl.supernet import (
    Scorer,
    allowed_choices,
    component_norms,
    truncate,
)
from glora_automl.training import ScoreFunction, metric_function
from glora_automl.workers import run_trials

__all__ = [
    "close_search",
    "context_objective",
    "create_scorer",
    "first_proposals",
    "largest_truncation",
    "proposes_largest",
    "random_study",
    "search_trials",
    "supernet_choices",
]


def context_objective(context: Context, trained: Trained) -> Objective:
    """Return the objective of a recipe with a trained supernet."""
    recipe = context.recipe
    return Objective(
        context.space,
        context.budget,
        lambda: create_scorer(
            context,
            trained,
            compiled=recipe.search.compile,
            score_function=metric_function(recipe.objective),
        ),
        recipe.objective,
        multi_objective=recipe.search.is_multi_objective,
        device=context.device,
    )


def create_scorer(
    context: Context,
    trained: Trained,
    *,
    compiled: bool = False,
    score_function: ScoreFunction | None = None,
) -> Scorer:
    """Return a scorer on the images of a recipe's trials; see :class:`Scorer`."""
    return Scorer(
        trained.supernet,
        *context.validation,
        dtype=context.scoring_dtype,
        compiled=compiled,
        score_function=score_function,
    )


def supernet_choices(context: Context, trained: Trained) -> dict[str, tuple[str, ...]] | None:
    """Return the choices that the supernet has weights for; None for all."""
    if trained.widest is None:
        return None
    return allowed_choices(context.space, trained.widest)


def first_proposals(
    context: Context, trained: Trained, initial: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """Return the first proposals of a search: the largest truncation, then the initial ones.

    Args:
        context: The recipe on this machine.
        trained: Its supernet.
        initial: Proposals that are known without the supernet.
    """
    largest = largest_truncation(context, trained, context.budget)
    if largest is None or not proposes_largest(context.recipe):
        return list(initial)
    return [context.space.params(largest), *initial][: context.recipe.search.population_size]


def proposes_largest(recipe: Recipe) -> bool:
    """Return whether the first trial is the truncation with the largest components."""
    return recipe.search.initial_presets and recipe.search.sampler == "evolution"


def largest_truncation(context: Context, trained: Trained, budget: int) -> Architecture | None:
    """Return the truncation of a supernet with the largest components.

    Args:
        context: The recipe on this machine.
        trained: Its supernet.
        budget: The most trainable parameters.

    Returns:
        The architecture; None if the supernet is no wide one, or nothing fits.
    """
    if trained.widest is None or budget < context.space.minimum:
        return None
    norms = component_norms(trained.supernet, trained.widest)
    return truncate(context.space, trained.widest, norms, budget)


def search_trials(
    run: Run, trained: Trained, on_trials: Callable[[int, int], object] | None = None
) -> None:
    """Evaluate the study's trials, together with other workers.

    Args:
        run: The study.
        trained: Its supernet.
        on_trials: Called with the number of finished trials before and after, by the worker of
            the last one.
    """
    context = run.context
    kept = unpack_proposals(context.space, get_setting(run.study, "initial"))
    initial = first_proposals(context, trained, kept)
    allowed = supernet_choices(context, trained)
    if run.sampler is None:
        run.study.sampler = create_sampler(context, initial, allowed)
    else:
        region = draw_region(context.space, context.budget, context.recipe.search, allowed)
        run.study.sampler = repaired(run.sampler, context.space, region, context.recipe.seed)

    def target() -> int:
        n_trials = run.target()
        if run.is_overdue and 0 < len(done_trials(run.study)) < n_trials:
            context.progress.log("The time limit of the search is reached.")
            close_search(run)
            n_trials = run.target()
        return n_trials

    run_trials(
        run.study,
        context_objective(context, trained).propose,
        worker=run.worker,
        target=target,
        progress=context.progress,
        monitor=Monitor(run.study, context, trial_recorder(run)),
        on_trials=on_trials,
        independent=None if run.sampler is not None else independent_trials(context),
        callbacks=run.callbacks,
    )


def close_search(run: Run) -> None:
    """End the search of a study with the trials that are done; its workers begin no other.

    Nothing changes in a study that has all of its trials.

    Args:
        run: The study.

    Raises:
        StudyError: If no trial is done.
    """

    def close() -> None:
        n_done = len(done_trials(run.study))
        if n_done == 0:
            raise StudyError(
                f"The study {run.name!r} must have a complete trial before its search can end. "
                f"Run 'glora resume {run.name}'."
            )
        if n_done < run.target():
            set_target(run.study, n_done)

    # Alone: another process may be about to raise the number.
    run.stages.exclusively(Stage.SETTINGS, close)


def independent_trials(context: Context) -> Callable[[int, int], bool] | None:
    """Return which positions do not depend on each other: those of one generation.

    The next trial is then asked for while a GPU evaluates. A CPU does both itself.
    """
    search = context.recipe.search
    if search.sampler != "evolution" or context.device.type != "cuda":
        return None
    return lambda first, second: first // search.population_size == second // search.population_size


def random_study(run: Run, trained: Trained, n_trials: int, name: str) -> optuna.Study:
    """Return a study of random truncations of the same supernet, evaluated by this call.

    Args:
        run: The study.
        trained: Its supernet.
        n_trials: Number of trials.
        name: Name of the study.
    """
    context = run.context
    search = context.recipe.search
    recipe = context.recipe.replace(
        search={
            "sampler": "evolution",
            "population_size": n_trials,
            "initial_presets": False,
            "objectives": search.objectives[:1],
        }
    )
    context = context.with_recipe(recipe)
    study = optuna.create_study(
        study_name=name,
        storage=run.worker.storage,
        sampler=create_sampler(context, allowed=supernet_choices(context, trained)),
        direction=run.study.directions[0],
        load_if_exists=True,
    )

    def target() -> int:
        run.check_settings()
        return n_trials

    run_trials(
        study,
        context_objective(context, trained).propose,
        worker=run.worker,
        target=target,
        progress=context.progress,
        title="Random search",
        monitor=Monitor(study, context),
    )
    return study
