"""Studies as a search leaves them, made in milliseconds: no image is looked at."""

import datetime

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from glora_automl.architecture import LayerShape
from glora_automl.budget import FeasibleRegion
from glora_automl.recipes import load_recipe
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.study._ranking import CONSTRAINT
from glora_automl.study._study import Settings, create_study, set_attribute, study_key
from glora_automl.workers import stage_study_name

BEGIN = datetime.datetime(2026, 1, 1)


def vit_shapes(depth=2, width=16):
    """The adapted layers of a vision transformer."""
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


def begin_study(storage, name="made", *, depth=2, width=16, share=0.3, space="default", **changes):
    """A study that was created and has no trial yet."""
    found = made_space(depth, width, space)
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
            budget=int(share * found.maximum),
            target=40,
            digests={"data": "d" * 64, "search space": found.digest},
            versions={},
            heartbeat=10.0,
            artifacts="runs/artifacts",
            layers=found.shapes,
        ),
    )


def frozen_trial(space, budget, number, *, seed=0, state=TrialState.COMPLETE, over=0, **attributes):
    """A trial as the search writes it; ``over`` makes it infeasible by so many parameters."""
    rng = np.random.default_rng([seed, number])
    params = FeasibleRegion(space, budget).draw(rng)
    count = space.count(params)
    drawn = 0.5 + 0.3 * count / budget + 0.1 * float(rng.random())
    accuracy = attributes.pop("validation_accuracy", drawn)
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
    """Add that many trials; returns them."""
    budget = study.user_attrs["glora:settings"]["budget"]
    first = len(study.get_trials(deepcopy=False))
    trials = [frozen_trial(space, budget, first + n, **options) for n in range(count)]
    study.add_trials(trials)
    return trials


def add_stage(study, stage, seconds, *, worker="host-0", **outcome):
    """A stage that is done."""
    stages = optuna.create_study(
        study_name=stage_study_name(study.study_name), storage=study._storage, load_if_exists=True
    )
    trial = create_trial(
        value=seconds,
        user_attrs={
            "worker": worker,
            "stage": stage,
            "key": study_key(study),
            "outcome": {"seconds": seconds, **outcome},
        },
    )
    trial.datetime_start = BEGIN
    trial.datetime_complete = BEGIN + datetime.timedelta(seconds=seconds)
    stages.add_trial(trial)


def finish(study, space):
    """Give a study a selection and a result."""
    best = max(
        (t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE),
        key=lambda t: t.values[0],
    )
    score = {"accuracy": best.values[0], "loss": 0.5, "n_images": 150}
    count = best.user_attrs["trainable_params"]
    selection = {
        "trial": best.number,
        "architecture": str(space.architecture(best.params)),
        "n_params": count,
        "inherited": score,
        "finetuned": None,
        "candidates": [best.number],
    }
    row = {
        "name": "searched",
        "n_params": count,
        "validation": score,
        "test": score,
        "n_images": 1000,
        "seconds": 9.0,
    }
    baseline = {**row, "name": "LoRA r=2"}
    none = {**row, "name": "BitFit", "n_params": None, "validation": None, "test": None}
    set_attribute(study, "selection", selection)
    set_attribute(study, "result", [row, baseline, none])
    return best


def made_study(storage=None, trials=24, **options):
    """A study with complete trials, and its search space."""
    storage = storage or optuna.storages.InMemoryStorage()
    study = begin_study(storage, **options)
    shape = {key: options[key] for key in ("depth", "width", "space") if key in options}
    space = made_space(**shape)
    add_trials(study, space, trials)
    return study, space
