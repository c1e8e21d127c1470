"""Verb ``compare``: the searched adapter beside its alternatives, at equal recipe and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from glora_automl._messages import short
from glora_automl.architecture import Architecture
from glora_automl.budget import FeasibleRegion
from glora_automl.errors import RecipeError, SearchSpaceError, StudyError
from glora_automl.pipeline import (
    Candidate,
    Context,
    Run,
    Trained,
    Workspace,
    baseline_work,
    candidate_count,
    check_searched,
    fetch_supernet,
    final_test,
    find_study,
    load_backbone,
    open_run,
    random_study,
    refit_work,
    supernet_choices,
    train_adapter,
    train_candidates,
    tune,
    uniform_architectures,
)
from glora_automl.presets import fitting_loras
from glora_automl.samplers import sort_trials
from glora_automl.study import (
    SEARCHED,
    AdapterOutcome,
    Comparison,
    PairOutcome,
    Row,
    Selection,
    Spent,
    Stage,
    StageName,
    TestOutcome,
    best_row,
    done_trials,
    get_attribute,
    spearman,
    trials_spent,
)
from glora_automl.workers import Claim, Work

__all__ = ["compare", "random_study_name"]

RANDOM, UNIFORM, ONE_RANDOM = "random truncations", "uniform truncation", "one random truncation"
SCRATCH, LONGER = "searched, from scratch", "LoRA at equal cost"
ALTERNATIVES = (RANDOM, ONE_RANDOM, UNIFORM, SCRATCH, LONGER)
"""Rows that a comparison adds, beside presets."""


def compare(
    name: str,
    *,
    n_architectures: int | None = None,
    only: Sequence[str] | None = None,
    workspace: Workspace | None = None,
) -> Comparison:
    """Compare a study's adapter with alternatives, all with the same recipe, refit and one test.

    From the same supernet: the best of as many random truncations as the search has trials, one
    random truncation, and LoRA of one rank. From the backbone: the searched architecture, LoRA
    with as many images as the whole search, and all presets that fit. With held-out images, some
    random architectures of mixed sizes are trained on to correlate inherited and trained accuracy.
    Everything is kept in the study, can be interrupted, and is shared by several workers.

    Args:
        name: Name of the study, which must be finished.
        n_architectures: Architectures for the rank correlation; 0 leaves it out. By default 10,
            and none in a study that holds no images out.
        only: Names of the only rows to add to those of the study. ``LoRA at equal cost`` is the
            cheapest that tells whether the search was worth its cost. Presets such as ``linear
            probe`` are rows, too. By default all, with the rank correlation.
        workspace: The environment.

    Raises:
        RecipeError: If ``n_architectures`` is 1 or negative or comes with ``only``, or ``only``
            has an unknown name.
        StudyError: If the study is not finished or had no search, or if it holds no images out
            and ``n_architectures`` is above 0.
        GLoRAError: If another input is invalid.
        Stopped: If the workspace asked to stop.
    """
    if n_architectures is not None and not (n_architectures == 0 or 2 <= n_architectures <= 1000):
        raise RecipeError(
            f"n_architectures must be 0 or from 2 to 1000, got {n_architectures}. Correct "
            "`n_architectures`."
        )
    if only is not None and n_architectures:
        raise RecipeError(
            f"n_architectures must be left out with `only`, got {n_architectures}. Remove one of "
            "them."
        )
    workspace, recipe = find_study(name, workspace)
    check_searched(name, recipe)
    with open_run(recipe, workspace, name=name) as run:
        run.check_finished()
        run = tune(load_backbone(run))
        holds_out = run.context.holds_out
        if n_architectures and not holds_out:
            raise StudyError(
                f"The study {name!r} must hold validation images out for the rank correlation of "
                f"{n_architectures} architectures. Leave out `n_architectures`, or search again "
                "with `selection.holdout = true`."
            )
        if n_architectures is None:
            n_architectures = 10 if holds_out else 0
        return _compare(run, n_architectures if only is None else 0, only)


def _compare(run: Run, n_architectures: int, only: Sequence[str] | None) -> Comparison:
    wanted = ALTERNATIVES if only is None else only
    result = {row.name: row for row in map(Row.from_json, get_attribute(run.study, "result"))}
    presets = uniform_architectures(run.context)
    for label in wanted:
        if label not in (*ALTERNATIVES, *presets):
            names = ", ".join(map(repr, (*ALTERNATIVES, *presets)))
            raise RecipeError(f"only must be one of {names}, got {short(label)}. Correct `only`.")
    if only is not None:
        presets = {k: found for k, found in presets.items() if k in result or k in only}
    works: dict[str, Work[Any]] = {}
    for label, architecture in presets.items():
        works |= baseline_work(run, label, architecture)
    truncations: dict[str, list[Candidate]] = {}
    if {RANDOM, ONE_RANDOM, UNIFORM} & set(wanted):
        truncations = {k: found for k, found in _truncations(run).items() if k in wanted}
    for label, candidates in truncations.items():
        stage = _stage(label)
        works[stage] = Work(AdapterOutcome, partial(_train_truncation, run, label, candidates))
    if SCRATCH in wanted:
        works[_stage(SCRATCH)] = Work(AdapterOutcome, partial(_from_scratch, run))
    if LONGER in wanted:
        works[_stage(LONGER)] = Work(AdapterOutcome, partial(_longer, run, result[SEARCHED]))
    for number, architecture in enumerate(_mixed_sizes(run, n_architectures), 1):
        work = Work(PairOutcome, partial(_train_pair, run, number, n_architectures, architecture))
        works[_stage(f"pair-{number}")] = work
    outcomes = run.stages.run(works)
    adapters = {s: o for s, o in outcomes.items() if isinstance(o, AdapterOutcome)}
    parts = {_stage(label): [str(Stage.SUPERNET), _stage(label)] for label in truncations}
    if run.context.recipe.selection.refit:
        refits: dict[str, Work[AdapterOutcome]] = {}
        for label in truncations:
            stage = _stage(label)
            parts[stage].append(f"{stage}-refit")
            refits |= refit_work(run, f"{stage}-refit", label, adapters[stage])
        refit = run.stages.run(refits)
        adapters |= {stage: refit[f"{stage}-refit"] for stage in parts}
    untested = {s: o for s, o in adapters.items() if o.row.name not in result and o.artifact}
    test = Work(TestOutcome, partial(final_test, run, untested, parts))
    # A stage is done once, so each choice of rows has a test stage of its own.
    chosen = "test" if only is None else "test " + " ".join(sorted(only))
    rows = result | {r.name: r for r in run.stages.run_one(_stage(chosen), test).rows}
    pairs = [(o.inherited, o.trained) for o in outcomes.values() if isinstance(o, PairOutcome)]
    # Rows of the study that are no preset say what did not fit.
    labels = dict.fromkeys((SEARCHED, *truncations, SCRATCH, LONGER, *presets, *result))
    known = [rows[label] for label in presets if label in rows]
    best_preset = best_row(known, run.context.recipe.metric)
    comparison = Comparison(
        budget=run.context.budget,
        rows=tuple(rows[label] for label in labels if label in rows),
        best_preset=None if best_preset is None else best_preset.name,
        inherited=spearman(pairs) if pairs else None,
        notes=tuple(run.context.data.captions()),
        metric=run.context.recipe.metric,
    )
    run.record("comparison", comparison.to_json())
    return comparison


def _stage(detail: str) -> str:
    return str(StageName(Stage.COMPARE, detail.replace(",", "")))


def random_study_name(name: str, key: str) -> str:
    """Return the name of the Optuna study with the random search beside a study.

    Example:
        >>> random_study_name("digits", "0123456789abcdef")
        'digits/random-0123456789abcdef'
    """
    return f"{name}/random-{key}"


def _truncations(run: Run) -> dict[str, list[Candidate]]:
    """Return the candidates of the alternatives that inherit from the study's supernet.

    The random search has as many candidates as the study's.
    """
    context = run.context
    trained = fetch_supernet(run)
    # More than were to be reached, if the number was lowered.
    target = max(run.target(), len(done_trials(run.study)))
    name = random_study_name(run.study.study_name, run.stages.key)
    study = random_study(run, trained, target, name)
    trials = study.get_trials(deepcopy=False)
    best = sort_trials(trials, study.directions, candidate_count(context))

    def candidate(trial: FrozenTrial) -> Candidate:
        return Candidate(context.space.architecture(trial.params), trial.number)

    found = {RANDOM: list(map(candidate, best)), ONE_RANDOM: [candidate(trials[0])]}
    fitting = fitting_loras(context.space.shapes, context.budget)
    within = [a for _, a in fitting if _has_weights(context, trained, a)]
    if within:
        found[UNIFORM] = [Candidate(within[-1])]
    return found


def _has_weights(context: Context, trained: Trained, architecture: Architecture) -> bool:
    """Return whether the supernet has weights for an architecture."""
    try:
        params = context.space.params(architecture)
    except SearchSpaceError:
        return False
    allowed = supernet_choices(context, trained)
    return allowed is None or all(choice in allowed[name] for name, choice in params.items())


def _train_truncation(
    run: Run, label: str, candidates: list[Candidate], claim: Claim
) -> AdapterOutcome:
    outcome = train_candidates(run, _stage(label), label, candidates)
    if label != RANDOM:
        return outcome
    # The random search is no stage, but its cost is that of its best truncation.
    study = optuna.load_study(
        study_name=random_study_name(run.study.study_name, run.stages.key),
        storage=run.worker.storage,
    )
    return replace(outcome, spent=outcome.spent.plus(trials_spent(study)))


def _from_scratch(run: Run, claim: Claim) -> AdapterOutcome:
    """Train the searched architecture from the backbone, like a baseline."""
    outcome = run.stages.outcome(Stage.SELECTION, AdapterOutcome)
    assert outcome is not None
    assert outcome.architecture is not None
    selection = Selection.from_json(get_attribute(run.study, "selection"))
    # A smaller adapter within a margin takes the place of the first one in the result table.
    text = outcome.architecture if selection.preset is not None else selection.architecture
    architecture = Architecture.parse(text)
    return train_adapter(run, _stage(SCRATCH), SCRATCH, architecture, title="Train from scratch")


def _longer(run: Run, searched: Row, claim: Claim) -> AdapterOutcome:
    """Train LoRA of the highest rank that fits for as many images as the searched adapter."""
    context = run.context
    fitting = fitting_loras(context.space.shapes, context.budget)
    if not fitting:
        return AdapterOutcome(Row(LONGER))
    cost = Spent(searched.n_images, searched.n_evaluated).forward_images
    one = Spent(context.recipe.training.epochs * len(context.task.train)).forward_images
    return train_adapter(
        run,
        _stage(LONGER),
        LONGER,
        fitting[-1].architecture,
        title=f"Train LoRA for {cost / one:.1f} trainings",
        ratio=cost / one,
        validated=False,
    )


def _mixed_sizes(run: Run, n_architectures: int) -> list[Architecture]:
    """Return random truncations of the supernet of all sizes within the budget."""
    context = run.context
    allowed = supernet_choices(context, fetch_supernet(run))
    region = FeasibleRegion(context.space, context.budget, 0, allowed)
    rng = np.random.default_rng([context.recipe.seed, 0xC0])
    return [context.space.architecture(region.draw(rng)) for _ in range(n_architectures)]


def _train_pair(
    run: Run, number: int, total: int, architecture: Architecture, claim: Claim
) -> PairOutcome:
    """Train a random truncation on, for the correlation with its inherited score."""
    run.context.progress.log(f"Architecture {number} of {total} for the rank correlation")
    stage = _stage(f"pair-{number}")
    outcome = train_candidates(run, stage, stage, [Candidate(architecture)])
    selection: Selection | None = outcome.selection
    assert selection is not None
    assert selection.inherited is not None
    assert selection.trained is not None
    return PairOutcome(
        selection.inherited.accuracy,
        selection.trained.accuracy,
        selection.n_params,
        outcome.spent,
    )
