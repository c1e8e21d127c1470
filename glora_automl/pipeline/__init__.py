"""The computation of a study, one file per stage in order of execution."""

from glora_automl.pipeline._backbone import load_backbone
from glora_automl.pipeline._baselines import (
    baseline_architectures,
    baseline_stage,
    baseline_work,
    train_given,
    uniform_architectures,
)
from glora_automl.pipeline._context import Context, prepare, prepare_task
from glora_automl.pipeline._data import check_score
from glora_automl.pipeline._device import resolve_device
from glora_automl.pipeline._final_test import final_test, keep_winner
from glora_automl.pipeline._forecast import forecast
from glora_automl.pipeline._initial import (
    initial_presets,
    pack_proposals,
    preset_proposals,
    unpack_proposals,
)
from glora_automl.pipeline._ladder import MAX_STEPS, Smallest, find_smallest, ladder_budgets
from glora_automl.pipeline._monitor import Monitor
from glora_automl.pipeline._objective import Objective, trial_values
from glora_automl.pipeline._open import check_searched, find_study, open_run
from glora_automl.pipeline._publishing import Publisher
from glora_automl.pipeline._recording import record_result, recorded
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._sampler import create_sampler, draw_region, repaired, sampler_of
from glora_automl.pipeline._search import (
    close_search,
    context_objective,
    create_scorer,
    first_proposals,
    random_study,
    search_trials,
    supernet_choices,
)
from glora_automl.pipeline._selection import (
    Candidate,
    TargetRaised,
    best_adapter,
    best_inherited,
    best_outcome,
    candidate_count,
    find_candidates,
    refit_work,
    select_work,
    selection_of,
    subnet_stage,
    train_candidates,
    trained_stage,
)
from glora_automl.pipeline._standalone import load_adapted, train_adapter, validate
from glora_automl.pipeline._supernet import (
    Trained,
    fetch_supernet,
    load_supernet,
    restore_supernet,
    train_supernet,
)
from glora_automl.pipeline._training import TrainingJob, new_supernet, standalone, subnet_of
from glora_automl.pipeline._tuning import fold_contexts, tune
from glora_automl.pipeline._workspace import Publish, Workspace

__all__ = [
    "MAX_STEPS",
    "Candidate",
    "Context",
    "Monitor",
    "Objective",
    "Publish",
    "Publisher",
    "Run",
    "Smallest",
    "TargetRaised",
    "Trained",
    "TrainingJob",
    "Workspace",
    "baseline_architectures",
    "baseline_stage",
    "baseline_work",
    "best_adapter",
    "best_inherited",
    "best_outcome",
    "candidate_count",
    "check_score",
    "check_searched",
    "close_search",
    "context_objective",
    "create_sampler",
    "create_scorer",
    "draw_region",
    "fetch_supernet",
    "final_test",
    "find_candidates",
    "find_smallest",
    "find_study",
    "first_proposals",
    "fold_contexts",
    "forecast",
    "initial_presets",
    "keep_winner",
    "ladder_budgets",
    "load_adapted",
    "load_backbone",
    "load_supernet",
    "new_supernet",
    "open_run",
    "pack_proposals",
    "prepare",
    "prepare_task",
    "preset_proposals",
    "random_study",
    "record_result",
    "recorded",
    "refit_work",
    "repaired",
    "resolve_device",
    "restore_supernet",
    "sampler_of",
    "search_trials",
    "select_work",
    "selection_of",
    "standalone",
    "subnet_of",
    "subnet_stage",
    "supernet_choices",
    "train_adapter",
    "train_candidates",
    "train_given",
    "train_supernet",
    "trained_stage",
    "trial_values",
    "tune",
    "uniform_architectures",
    "unpack_proposals",
    "validate",
]
