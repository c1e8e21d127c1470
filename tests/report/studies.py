"""Studies like those of a search, made in milliseconds without images."""

import datetime

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from glora_automl.architecture import LayerShape
from glora_automl.budget import FeasibleRegion
from glora_automl.recipes import load_recipe
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.study import (
    CONSTRAINT,
    ClassReport,
    Done,
    Row,
    Selection,
    Settings,
    Spent,
    create_study,
    set_attribute,
    study_key,
)
from glora_automl.training import Score
from glora_automl.workers import stage_study_name

BEGIN = datetime.datetime(2026, 1, 1)


def vit_shapes(depth=2, width=16):
    """Return the shapes of the adapted layers of a vision transformer."""
    return {
        f"blocks.{block}.{name}": LayerShape(out * width, in_ * width)
        for block in range(depth)
        for name, out, in_ in (
            ("attn.qkv", 3, 1),
            ("attn.proj", 1, 1),
            ("mlp.fc1", 4, 1),
            ("mlp.fc2", 1, 4),
        )
    }


def made_space(depth=2, width=16, space="default"):
    return SearchSpace(load_search_space(space), vit_shapes(depth, width))


def begin_study(
    storage, name="made", *, depth=2, width=16, budget_fraction=0.3, space="default", **changes
):
    """Create a study without trials."""
    search_space = made_space(depth, width, space)
    recipe = load_recipe("digits").replace(
        search={
            "n_trials": 40,
            "population_size": 8,
            "n_parents": 3,
            "objectives": ["accuracy"],
            **changes,
        },
        search_space=load_search_space(space).model_dump(mode="json"),
    )
    return create_study(
        storage,
        name,
        Settings(
            recipe=recipe,
            budget=int(budget_fraction * search_space.maximum),
            target=40,
            digests={"data": "d" * 64, "search space": search_space.digest},
            versions={},
            heartbeat=10.0,
            artifacts="runs/artifacts",
            layers=search_space.shapes,
        ),
    )


def frozen_trial(space, budget, number, *, seed=0, state=TrialState.COMPLETE, over=0, **attributes):
    """Return a trial with the attributes of a search; ``over`` is its excess over the budget."""
    rng = np.random.default_rng([seed, number])
    params = FeasibleRegion(space, budget).draw(rng)
    count = space.count(params)
    default = 0.5 + 0.3 * count / budget + 0.1 * float(rng.random())
    accuracy = attributes.pop("validation_accuracy", default)
    start = BEGIN + datetime.timedelta(seconds=number)
    trial = create_trial(
        state=state,
        params=params,
        distributions=space.distributions(),
        constraints={CONSTRAINT: float(over or count - budget)},
        user_attrs={
            "worker": f"host-{number % 2}",
            "trainable_params": count,
            "validation_accuracy": accuracy,
            "validation_loss": 1 - accuracy,
            "validation_images": 150,
            "seconds": 0.25,
            **attributes,
        },
        value=accuracy if state == TrialState.COMPLETE else None,
    )
    trial.datetime_start = start
    if state.is_finished():
        trial.datetime_complete = start + datetime.timedelta(seconds=0.5)
    return trial


def add_trials(study, space, count, **options):
    """Add and return ``count`` trials."""
    budget = study.user_attrs["glora:settings"]["budget"]
    first = len(study.get_trials(deepcopy=False))
    trials = [frozen_trial(space, budget, first + n, **options) for n in range(count)]
    study.add_trials(trials)
    return trials


def add_stage(study, stage, seconds, *, n_trained=0, n_evaluated=0, worker="host-0", wall=None):
    """Add a finished stage; ``wall`` are the seconds of its attempt, if they are others."""
    wall = seconds if wall is None else wall
    stages = optuna.create_study(
        study_name=stage_study_name(study.study_name), storage=study._storage, load_if_exists=True
    )
    trial = create_trial(
        value=wall,
        user_attrs={
            "worker": worker,
            "stage": stage,
            "key": study_key(study),
            "outcome": Done(Spent(n_trained, n_evaluated, seconds)).to_json(),
        },
    )
    trial.datetime_start = BEGIN
    trial.datetime_complete = BEGIN + datetime.timedelta(seconds=wall)
    stages.add_trial(trial)


def finish(study, space):
    """Give a study a selection and a result, and return the selected trial."""
    best = max(
        (t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE),
        key=lambda t: t.values[0],
    )
    labels = np.arange(30) % 3
    report = ClassReport.of(["ant", "bee", "cat"], labels, np.where(labels == 1, 2, labels))
    set_attribute(study, "classes", report.to_json())
    score = Score(min(1.0, best.values[0]), 0.5, 150)
    count = best.user_attrs["trainable_params"]
    selection = Selection(
        str(space.architecture(best.params)), count, score, best.number, candidates=(best.number,)
    )
    rows = [
        Row("searched", count, score, score, 1000, 9.0),
        Row("LoRA r=2", count, score, score, 1000, 9.0),
        Row("BitFit"),
    ]
    set_attribute(study, "selection", selection.to_json())
    set_attribute(study, "result", [row.to_json() for row in rows])
    return best


def made_study(storage=None, trials=24, **options):
    """Return a study with complete trials, and its search space."""
    storage = storage or optuna.storages.InMemoryStorage()
    study = begin_study(storage, **options)
    shape = {key: options[key] for key in ("depth", "width", "space") if key in options}
    space = made_space(**shape)
    add_trials(study, space, trials)
    return study, space
