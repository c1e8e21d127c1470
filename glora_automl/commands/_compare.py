"""What the search was worth: random search at the same cost, uniform adapters, and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from glora_automl.architecture import Architecture
from glora_automl.errors import RecipeError, SearchSpaceError
from glora_automl.pipeline import (
    Proposer,
    Run,
    Watch,
    adapter_outcome,
    baseline_stage,
    choose,
    competing_baselines,
    create_sampler,
    fetch_supernet,
    final_test,
    find,
    join,
    load_backbone,
    train_baseline,
    train_standalone,
    uniform_architectures,
)
from glora_automl.progress import Progress
from glora_automl.study import (
    CONTROLS_ASIDE,
    Comparison,
    Row,
    best_row,
    best_trials,
    done_trials,
    get_setting,
    kendall,
    name_objectives,
    stage_seconds,
)
from glora_automl.training import evaluate
from glora_automl.workers import Claim, Work, run_trials

__all__ = ["compare", "random_study_name"]

RANDOM = "compare-random"
"""The stage that chooses among the trials of the random search."""

INHERITED = "compare-inherited"
"""The stage that takes the searched architecture with the supernet's weights."""

RETRAINED = "compare-retrained"
"""The stage that trains the searched architecture alone."""

RANDOM_RETRAINED = "compare-random-retrained"
"""The stage that trains the architecture of the random search alone."""


def compare(
    name: str,
    *,
    architectures: int = 10,
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
    data: str | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Put a study's adapter beside a random search of the same cost and uniform adapters.

    The random search scores as many random architectures under the budget with the same supernet
    and chooses among the best of them in the same way. The uniform adapters are trained like the
    study's controls. Each is tested once. Some of the random architectures are trained alone, to
    see whether the supernet ranks them as they deserve. All of it is kept in the study, can be
    interrupted, and is shared out if several workers call this at the same time.

    Args:
        name: Name of the study, which must be finished.
        architectures: How many are trained alone; each costs as much as a control.
        storage: As for :func:`glora_automl.search`.
        artifacts: Where this machine finds the study's artifacts, if not where the study says.
        data: Where this machine finds the images, if not where the study says.
        runs: As for :func:`glora_automl.search`.
        device: As for :func:`glora_automl.search`.
        patience: As for :func:`glora_automl.search`.
        stop: As for :func:`glora_automl.search`.
        progress: As for :func:`glora_automl.search`.

    Raises:
        RecipeError: If ``architectures`` is neither 0 nor from 2 to the study's trials.
        StudyError: If the study is not finished, or had no search.
        GLoRAError: If anything else is wrong with the input.
        Stopped: If ``stop`` asked for it.
    """
    storage, recipe = find(name, storage=storage, data=data, runs=runs, patience=patience)
    with join(
        recipe,
        name=name,
        storage=storage,
        artifacts=artifacts,
        runs=runs,
        device=device,
        patience=patience,
        stop=stop,
        progress=progress,
    ) as run:
        run.check_searched()
        target = int(get_setting(run.study, "target"))
        if architectures != 0 and not 2 <= architectures <= target:
            raise RecipeError(
                f"The architectures to train alone must be 0 or from 2 to the {target} trials of "
                f"the study {name!r}, got {architectures}."
            )
        run.check_finished()
        return _compare(load_backbone(run), target, architectures)


def _compare(run: Run, target: int, architectures: int) -> Comparison:
    recipe = run.setup.recipe
    random = _random_search(run, target)
    candidates = best_trials(random, recipe.selection.n_candidates)
    uniform = uniform_architectures(run.setup)
    works: dict[str, Work] = {
        RANDOM: lambda _: choose(
            run, RANDOM, candidates, name="random search", against=competing_baselines(run)
        )
    }
    selection = run.stages.outcome("selection")
    assert selection is not None, "the study is finished"
    searched = Architecture.parse(selection["architecture"])
    if _is_inherited(run, searched):  # a control that was chosen may be beyond the search space
        works[INHERITED] = partial(_inherit, run, searched)
    works[RETRAINED] = partial(train_baseline, run, RETRAINED, "searched, retrained", searched)
    for label, architecture in uniform.items():
        stage = baseline_stage(label)
        works[stage] = partial(train_baseline, run, stage, label, architecture)
    sample = random.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[:architectures]
    for number, trial in enumerate(sample, 1):
        stage = f"compare-alone-{number}"
        title = f"Architecture {number} of {architectures} alone"
        works[stage] = partial(_train_sample, run, stage, trial, title)
    found = run.stages.run(works)
    drawn = Architecture.parse(found[RANDOM]["architecture"])
    retrain = partial(train_baseline, run, RANDOM_RETRAINED, "random search, retrained", drawn)
    found |= run.stages.run({RANDOM_RETRAINED: retrain})
    outcome = run.stages.outcome("test")
    assert outcome is not None, "the study is finished"
    rows = {row["name"]: Row.from_json(row) for row in outcome["rows"]}
    untested = [
        stage for stage in (RANDOM, INHERITED, RETRAINED, RANDOM_RETRAINED) if stage in found
    ]
    untested += [baseline_stage(label) for label in uniform if label not in rows]
    test = partial(_test, run, random, {stage: found[stage] for stage in untested})
    added = run.stages.run({"compare-test": test})["compare-test"]["rows"]
    rows |= {row["name"]: Row.from_json(row) for row in added}
    pairs = [found[stage]["pair"] for stage in works if stage.startswith("compare-alone")]
    comparison = Comparison(
        budget=run.setup.budget,
        rows=tuple(rows[label] for label in (*_SEARCHED, *uniform) if label in rows),
        best_uniform=best_row([rows[label] for label in uniform if label in rows]).name,
        inherited=kendall(pairs, recipe.seed) if pairs else None,
    )
    run.record("comparison", comparison.to_json())
    return comparison


_SEARCHED = (
    "searched",
    CONTROLS_ASIDE,
    "searched, inherited",
    "searched, retrained",
    "random search",
    "random search, retrained",
)


def _is_inherited(run: Run, architecture: Architecture) -> bool:
    """Whether the supernet has weights for an architecture."""
    try:
        run.setup.space.params(architecture)
    except SearchSpaceError:
        return False
    return True


def _inherit(run: Run, architecture: Architecture, claim: Claim) -> dict[str, Any]:
    """The searched architecture with the weights that it has inherited."""
    supernet = fetch_supernet(run)
    with supernet.merged(architecture) as model:
        score = evaluate(model, *run.setup.validation, scale_temperature=True)
    row = Row(
        "searched, inherited",
        n_params=architecture.count(run.setup.space.shapes),
        validation=score,
        n_images=run.setup.recipe.training.epochs * len(run.setup.task.train),
    )
    return adapter_outcome(run, INHERITED, row, supernet, architecture)


def random_study_name(name: str, key: str) -> str:
    """Name of the Optuna study that holds the random search beside a study.

    Example:
        >>> random_study_name("digits", "0123456789abcdef")
        'digits/random-0123456789abcdef'
    """
    return f"{name}/random-{key}"


def _random_search(run: Run, target: int) -> optuna.Study:
    """As many trials as the search's, all of them like those of its first generation."""
    setup = run.setup
    search = setup.recipe.search
    recipe = setup.recipe.replace(
        search={
            "sampler": "evolution",
            "population_size": target,
            "objectives": [search.metric],
        }
    )
    setup = replace(setup, recipe=recipe)
    study = optuna.create_study(
        study_name=random_study_name(run.study.study_name, run.stages.key),
        storage=run.worker.storage,
        sampler=create_sampler(setup),
        direction=run.study.directions[0],
        load_if_exists=True,
    )
    name_objectives(study, recipe.search)
    if len(done_trials(study)) < target:
        standalone = replace(run, study=study, setup=setup)
        run_trials(
            study,
            Proposer(standalone, fetch_supernet(run)),
            worker=run.worker,
            target=lambda: target,
            progress=setup.progress,
            title="Random search",
            watch=Watch(study, setup),
        )
    return study


def _train_sample(
    run: Run, stage: str, trial: FrozenTrial, title: str, claim: Claim
) -> dict[str, Any]:
    """Train a random architecture alone, to compare it with what it has inherited."""
    architecture = run.setup.space.architecture(trial.params)
    _, row = train_standalone(run, stage, stage, architecture, title=title)
    assert row.validation is not None
    inherited = float(trial.user_attrs["validation_accuracy"])
    return {
        "pair": [inherited, row.validation.accuracy],
        "n_images": row.n_images,
        "seconds": row.seconds,
    }


def _test(
    run: Run, random: optuna.Study, outcomes: Mapping[str, dict[str, Any]], claim: Claim
) -> dict[str, Any]:
    """Test what was not tested at the end of the study."""
    parts = {RANDOM: ("supernet", RANDOM), INHERITED: ("supernet", "search", INHERITED)}
    outcome = final_test(run, outcomes, parts, claim)
    row = outcome["rows"][0]
    row["seconds"] = round(row["seconds"] + stage_seconds(random, None)["search"], 2)
    return outcome
