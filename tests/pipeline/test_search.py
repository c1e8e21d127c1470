from dataclasses import replace

import optuna
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from glora_automl.pipeline import (
    Workspace,
    context_objective,
    first_proposals,
    initial_presets,
    load_backbone,
    load_supernet,
    open_run,
    prepare,
    random_study,
    search_trials,
    supernet_choices,
    train_supernet,
)
from glora_automl.pipeline._search import independent_trials, largest_truncation
from glora_automl.study import read_recipe
from glora_automl.supernet import component_norms, truncate


@pytest.fixture
def context_of(tiny, tmp_path):
    def with_changes(**changes):
        recipe = tiny.replace(**{"training": {"epochs": 3}, **changes})
        context = prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny")
        return context.with_backbone(context.bare_backbone())

    return with_changes


def test_first_proposals_are_the_largest_truncation_then_presets(context_of):
    context = context_of(search={"population_size": 20})
    trained, presets = train_supernet(context, None), initial_presets(context)
    found = first_proposals(context, trained, presets)
    norms = component_norms(trained.supernet, trained.widest)
    largest = truncate(context.space, trained.widest, norms, context.budget)
    assert found == [context.space.params(largest), *presets]
    assert len(presets) > 2
    assert all(context.space.count(params) <= context.budget for params in found)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 1.0])
def test_largest_truncation_fills_the_budget(context_of, fraction):
    context = context_of(budget="100%")
    trained = train_supernet(context, None)
    budget = int(fraction * context.space.maximum)
    count = largest_truncation(context, trained, budget).count(context.space.shapes)
    assert 0.9 * budget < count <= budget


def test_largest_truncation_of_other_supernets_and_budgets_is_none(context_of):
    context = context_of(supernet={"paths": "uniform"})
    assert largest_truncation(context, train_supernet(context, None), context.budget) is None
    context = context_of()
    trained = train_supernet(context, None)
    assert largest_truncation(context, trained, context.space.minimum - 1) is None
    assert largest_truncation(context, trained, context.space.minimum) is not None


def test_first_proposals_fit_into_the_first_generation(context_of):
    context = context_of(search={"population_size": 3, "n_parents": 2})
    trained = train_supernet(context, None)
    presets = [dict(params) for params in initial_presets(context)] * 5
    assert len(first_proposals(context, trained, presets)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"initial_presets": False}},
        {"search": {"sampler": "tpe"}},
        {"supernet": {"paths": "uniform"}},
    ],
)
def test_first_proposals_without_truncations_are_the_given_ones(context_of, changes):
    context = context_of(**changes)
    trained, given = train_supernet(context, None), [{"some": "choice"}]
    assert first_proposals(context, trained, given) == given


def test_supernet_choices_are_those_with_weights(context_of):
    context = context_of(search_space={"base": "default"})
    found = supernet_choices(context, train_supernet(context, None))
    assert set(found) == {d.name for d in context.space.dimensions}
    assert all("none" in choices for choices in found.values())
    assert "scalar" not in {c for choices in found.values() for c in choices}
    uniform = context_of(search_space={"base": "default"}, supernet={"paths": "uniform"})
    assert supernet_choices(uniform, train_supernet(uniform, None)) is None


@pytest.mark.parametrize("objectives", [["loss"], ["accuracy"], ["loss", "n_params"]])
def test_context_objective_scores_the_subnets_of_the_supernet(context_of, objectives):
    context = context_of(search={"objectives": objectives})
    trained = train_supernet(context, None)
    objective = context_objective(context, trained)
    study = optuna.create_study(
        directions=objective.directions, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(objective, n_trials=4)
    images, labels = context.validation
    for trial in study.trials:
        trained.supernet.activate(context.space.architecture(trial.params))
        with torch.no_grad():
            logits = trained.supernet.model.eval()(images[:])
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        expected = [loss if objectives[0] == "loss" else accuracy]
        expected += [context.space.count(trial.params)] * (len(objectives) - 1)
        assert trial.values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("metric", ["auroc", "log_loss"])
def test_context_objective_of_a_metric_has_its_value_and_direction(context_of, metric):
    context = context_of(metric=metric, search={"objectives": ["metric", "n_params"]})
    trained = train_supernet(context, None)
    objective = context_objective(context, trained)
    assert [d.name for d in objective.directions] == [
        "MINIMIZE" if metric == "log_loss" else "MAXIMIZE",
        "MINIMIZE",
    ]
    study = optuna.create_study(
        directions=objective.directions, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(objective, n_trials=2)
    images, labels = context.validation
    for trial in study.trials:
        trained.supernet.activate(context.space.architecture(trial.params))
        with torch.no_grad():
            p = trained.supernet.model.eval()(images[:]).double().softmax(1).numpy()
        expected = {
            "auroc": roc_auc_score(labels.numpy(), p, multi_class="ovr"),
            "log_loss": log_loss(labels.numpy(), p),
        }
        assert trial.values[0] == pytest.approx(expected[metric], abs=1e-5)


def test_search_trials_begin_with_the_truncation_and_fit_the_budget(tiny, tmp_path):
    recipe = tiny.replace(training={"epochs": 3}, search={"n_trials": 9})
    seen = []
    with open_run(recipe, Workspace(runs=tmp_path, device="cpu")) as run:
        run = load_backbone(run)
        trained = load_supernet(run)
        search_trials(run, trained, lambda before, now: seen.append((before, now)))
        context = run.context
        first = first_proposals(context, trained, initial_presets(context))[0]
        trials = run.study.get_trials()
    assert trials[0].params == first
    assert len(trials) == 9
    assert seen == [(n, n + 1) for n in range(9)]
    allowed = supernet_choices(context, trained)
    for trial in trials:
        assert trial.constraints["trainable_params"] <= 0
        assert all(choice in allowed[name] for name, choice in trial.params.items())


def test_random_study_evaluates_random_truncations_of_the_same_supernet(finished, tmp_path):
    recipe = read_recipe(finished.study).replace(training={"epochs": 2})
    with open_run(recipe, Workspace(runs=tmp_path, device="cpu")) as run:
        run = load_backbone(run)
        trained = load_supernet(run)
        study = random_study(run, trained, 7, "tiny/random")
        again = random_study(run, trained, 7, "tiny/random")
        context, own = run.context, run.study.get_trials()
        first = first_proposals(context, trained, [])
    assert len(study.trials) == len(again.trials) == 7
    assert own == []
    assert study.directions == run.study.directions
    assert all(t.user_attrs["trainable_params"] <= context.budget for t in study.trials)
    assert len({tuple(t.params.items()) for t in study.trials}) == 7
    assert not any(t.params in first for t in study.trials)


def test_independent_trials_are_those_of_one_generation_on_cuda(context_of):
    context = context_of(search={"population_size": 4})
    assert independent_trials(context) is None
    on_cuda = replace(context, device=torch.device("cuda"))
    independent = independent_trials(on_cuda)
    assert independent(0, 3)
    assert independent(4, 5)
    assert not independent(3, 4)
    tpe = replace(on_cuda, recipe=context.recipe.replace(search={"sampler": "tpe"}))
    assert independent_trials(tpe) is None
