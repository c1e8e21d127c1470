import math
import warnings
from itertools import count

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

from glora_automl.architecture import LayerShape
from glora_automl.budget import FeasibleRegion
from glora_automl.samplers import EvolutionSampler
from glora_automl.search_space import SearchSpace, load_search_space
from tests.processes import start


class TestOptunaSuite(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: EvolutionSampler(population_size=5, n_parents=2, seed=0)


@pytest.fixture(scope="module", autouse=True)
def silence():
    """Optuna says a line about each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


NAMES = tuple(f"x{i}" for i in range(6))
SPACE = {name: CategoricalDistribution(range(5)) for name in NAMES}


def suggest(trial, space=SPACE):
    return {name: trial.suggest_categorical(name, dist.choices) for name, dist in space.items()}


def objective(trial):
    """Separable, with another best value for each parameter."""
    return float(sum((value - i) ** 2 for i, value in enumerate(suggest(trial).values())))


def sampler(**options):
    return EvolutionSampler(
        **{"population_size": 10, "n_parents": 3, "search_space": SPACE, "seed": 0, **options}
    )


def run(sampler, trials, objective=objective, **options):
    study = optuna.create_study(sampler=sampler, **options)
    study.optimize(objective, n_trials=trials)
    return study


def params(study):
    return [trial.params for trial in study.trials]


# What a trial is


def test_the_same_seed_gives_the_same_trials_and_another_one_others():
    first = params(run(sampler(), 40))
    assert params(run(sampler(), 40)) == first
    assert params(run(sampler(seed=1), 40)) != first


def test_without_a_seed_samplers_differ():
    first, second = (run(sampler(seed=None), 10) for _ in range(2))
    assert params(first) != params(second)


def test_the_state_of_the_process_plays_no_part():
    np.random.seed(1)  # noqa: NPY002
    first = sampler()
    first.reseed_rng()
    np.random.seed(2)  # noqa: NPY002
    assert params(run(first, 20)) == params(run(sampler(), 20))


def go_on(url, trials, known):
    """What each of the processes does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="a",
        storage=url,
        sampler=sampler(search_space=SPACE if known else None),
        load_if_exists=True,
    )
    study.optimize(objective, n_trials=trials)


@pytest.mark.parametrize("known", [True, False], ids=["space known", "space found out"])
def test_samplers_that_take_turns_on_one_file_give_the_trials_of_one(tmp_path, known):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    for trials in (7, 20, 8):
        go_on(url, trials, known)
    found = optuna.load_study(study_name="a", storage=url)
    assert params(found) == params(run(sampler(search_space=SPACE if known else None), 35))


def test_three_processes_on_one_file_give_the_trials_of_one(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    for trials in (25, 5, 30):
        process = start(go_on, url, trials, True, folder=tmp_path)
        assert process.wait() == 0, process.err
    found = optuna.load_study(study_name="a", storage=url)
    assert params(found) == params(run(sampler(), 60))


# Interruptions


def requeue(study):
    """What a worker does with the trials that another one left behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback()
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        retry(study, study.tell(trial.number, state=TrialState.FAIL))


def complete(study):
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return [(trial.params, trial.value) for trial in trials]


def interrupted(stops, suggested, known):
    """A study of 45 complete trials whose worker was killed after so many of them."""
    study = optuna.create_study()
    for stop in [*stops, 45]:
        study.sampler = sampler(search_space=SPACE if known else None)
        requeue(study)
        study.optimize(objective, n_trials=stop - len(complete(study)))
        if stop < 45:
            trial = study.ask()
            for name in NAMES[:suggested]:
                trial.suggest_categorical(name, SPACE[name].choices)
    return study


@pytest.mark.parametrize("known", [True, False], ids=["space known", "space found out"])
@pytest.mark.parametrize("suggested", [0, 3, 6])
@pytest.mark.parametrize("stops", [[0], [4], [10], [23], [4, 13, 30], [23, 23, 23]], ids=str)
def test_an_interrupted_study_has_the_trials_of_an_uninterrupted_one(stops, suggested, known):
    study = interrupted(stops, suggested, known)
    assert complete(study) == complete(run(sampler(search_space=SPACE if known else None), 45))
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.FAIL) == len(stops)
    assert len(states) == 45 + len(stops)


# Parents

TICKETS = {name: CategoricalDistribution(range(1000)) for name in NAMES}


class Tickets:
    """A region whose draws are all 0, all 1, all 2, ...: each gene tells where it comes from."""

    def __init__(self):
        self.numbers = count()

    def draw(self, rng):
        number = next(self.numbers)
        return dict.fromkeys(NAMES, number)

    def repair(self, params, rng):
        return dict(params)


def ticket_study(trials, value, **options):
    """The genes of each trial, where a trial is worth ``value(trial, params)``."""
    made = EvolutionSampler(
        **{
            "population_size": 8,
            "n_parents": 3,
            "mutation_fraction": 0.0,
            "search_space": TICKETS,
            "region": Tickets(),
            "seed": 0,
            **options,
        }
    )
    study = optuna.create_study(sampler=made)
    study.optimize(
        lambda trial: value(trial, suggest(trial, TICKETS)),
        n_trials=trials,
        catch=(ArithmeticError,),
    )
    return [tuple(trial.params[name] for name in NAMES) for trial in study.trials]


def genes_of(trials):
    return {gene for trial in trials for gene in trial}


def test_the_first_generation_is_drawn_from_the_region():
    genes = ticket_study(8, lambda trial, _: 0.0)
    assert genes == [(number,) * 6 for number in range(8)]


def test_children_come_from_the_best_of_the_earlier_trials():
    best = ticket_study(16, lambda trial, x: float(abs(x["x0"] - 4)))
    assert genes_of(best[8:]) == {3, 4, 5}


def test_the_direction_of_the_study_tells_what_is_best():
    study = optuna.create_study(
        direction="maximize",
        sampler=EvolutionSampler(
            population_size=8,
            n_parents=2,
            mutation_fraction=0.0,
            search_space=TICKETS,
            region=Tickets(),
            seed=0,
        ),
    )
    study.optimize(lambda trial: suggest(trial, TICKETS)["x0"], n_trials=16)
    assert {gene for trial in study.trials[8:] for gene in trial.params.values()} == {6, 7}


def test_a_crossover_has_two_parents():
    children = ticket_study(
        64, lambda trial, _: float(trial.number), population_size=32, n_parents=32
    )[32:]
    assert all(len(set(child)) <= 2 for child in children)
    assert sum(len(set(child)) == 2 for child in children) > 24
    # Which parent gives which gene is drawn anew for each child.
    patterns = {tuple(gene == child[0] for gene in child) for child in children}
    assert len(patterns) > 10


def test_a_mutation_has_one_parent_and_some_fresh_genes():
    genes = ticket_study(
        64,
        lambda trial, _: float(trial.number),
        population_size=32,
        n_parents=32,
        mutation_fraction=1.0,
    )
    inherited = [[gene for gene in child if gene < 32] for child in genes[32:]]
    kept = [max(map(of_child.count, of_child), default=0) for of_child in inherited]
    # A fresh gene is hardly ever one of the 32 old ones.
    assert sum(map(len, inherited)) - sum(kept) < 5
    # Each of the 6 genes is kept with probability 0.8, of 192 in all.
    assert 130 < sum(kept) < 180


def test_the_mutation_probability_is_that_of_each_gene():
    everything = ticket_study(
        48, lambda trial, _: 0.0, population_size=24, mutation_fraction=1.0, mutation_prob=1.0
    )
    # 1000 values: a fresh gene hardly ever equals one of the 24 old ones.
    fresh = [gene for child in everything[24:] for gene in child if gene >= 24]
    assert len(fresh) > 120
    nothing = ticket_study(
        16, lambda trial, x: float(x["x0"]), mutation_fraction=1.0, mutation_prob=0.0
    )
    # Copies were seen before, but no redraw can be anything else: the bound ends it.
    assert set(nothing[8:]) <= {(0,) * 6, (1,) * 6, (2,) * 6}
    assert len(set(nothing[8:])) > 1


def test_the_first_part_of_a_generation_is_mutated_the_rest_crossed_over():
    genes = ticket_study(
        24,
        lambda trial, x: float(x["x0"]),
        population_size=12,
        mutation_fraction=0.25,
        mutation_prob=1.0,
    )
    assert all(max(child) >= 12 for child in genes[12:15])
    assert genes_of(genes[15:]) == {0, 1, 2}


def test_parents_are_of_earlier_generations_only():
    # Mutants bring fresh genes, and whoever has them is better than all before.
    genes = ticket_study(
        36,
        lambda trial, x: -float(max(x.values())),
        population_size=12,
        mutation_fraction=0.5,
        mutation_prob=1.0,
    )
    first, second = genes_of(genes[:12]), genes_of(genes[12:18])
    assert genes_of(genes[18:24]) == {9, 10, 11} < first
    assert genes_of(genes[30:36]) <= second | first
    assert genes_of(genes[30:36]) & (second - first)


def test_infeasible_trials_are_no_parents_where_enough_feasible_ones_are():
    def value(trial, x):
        odd = x["x0"] % 2
        trial.set_constraint("size", 1.0 if odd else -1.0)
        return -1000.0 if odd else float(x["x0"])

    assert genes_of(ticket_study(16, value)[8:]) == {0, 2, 4}


def test_where_nothing_is_feasible_the_least_violation_is_best():
    def value(trial, x):
        trial.set_constraint("size", 10.0 - x["x0"])
        return float(x["x0"])

    assert genes_of(ticket_study(16, value)[8:]) == {5, 6, 7}


def test_failed_and_pruned_trials_are_no_parents():
    def value(trial, x):
        if x["x0"] == 1:
            raise ZeroDivisionError
        if x["x0"] == 2:
            trial.report(-5.0, 0)
            raise optuna.TrialPruned
        if x["x0"] == 3:
            return math.nan
        return float(x["x0"])

    assert genes_of(ticket_study(16, value)[8:]) == {0, 4, 5}


def test_an_architecture_that_was_evaluated_twice_takes_one_place():
    made = EvolutionSampler(
        population_size=8,
        n_parents=2,
        mutation_fraction=0.0,
        search_space=TICKETS,
        region=Tickets(),
        seed=0,
    )
    study = optuna.create_study(sampler=made)
    for number in (900, 900, 900, 899):
        study.enqueue_trial(dict.fromkeys(NAMES, number))
    study.optimize(lambda trial: -suggest(trial, TICKETS)["x0"], n_trials=16)
    genes = {gene for trial in study.trials[8:] for gene in trial.params.values()}
    assert genes == {899, 900}


def test_values_that_are_no_choices_any_more_are_not_inherited():
    study = run(sampler(), 10)
    smaller = {name: CategoricalDistribution([3, 4]) for name in NAMES}
    study.sampler = sampler(search_space=smaller)
    for _ in range(20):
        trial = study.ask()
        relative = study.sampler.sample_relative(study, trial._cached_frozen_trial, smaller)
        assert set(relative.values()) <= {3, 4}
        study.tell(trial, 0.0)


# Regions


@pytest.fixture(scope="module")
def region():
    shapes = {f"blocks.{i}.fc{j}": LayerShape(16, 16) for i in range(2) for j in (1, 2)}
    space = SearchSpace(load_search_space("default"), shapes)
    return FeasibleRegion(space, space.maximum // 10)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_proposal_lies_in_the_region(region, share):
    space = region.space
    made = EvolutionSampler(
        population_size=15,
        n_parents=4,
        mutation_fraction=share,
        mutation_prob=0.5,
        search_space=space.distributions(),
        region=region,
        seed=0,
    )
    counts = []

    def objective(trial):
        counts.append(space.count(suggest(trial, space.distributions())))
        return -counts[-1]  # the bigger the better: evolution presses against the budget

    run(made, 60, objective)
    assert max(counts) <= region.budget
    assert max(counts[15:]) > 0.9 * region.budget
    assert len(set(counts)) > 20


# Duplicates


def test_proposals_that_were_seen_are_drawn_anew():
    space = {f"b{i}": CategoricalDistribution([0, 1]) for i in range(8)}
    made = sampler(population_size=100, search_space=space)
    # 100 draws among 256 points would repeat about 17 of them.
    study = run(made, 100, lambda trial: sum(suggest(trial, space).values()))
    assert len({tuple(p.items()) for p in params(study)}) == 100


def test_a_space_that_is_used_up_still_gives_trials():
    space = {"b": CategoricalDistribution([0, 1])}
    study = run(sampler(search_space=space), 50, lambda trial: suggest(trial, space)["b"])
    assert len(study.trials) == 50
    assert {p["b"] for p in params(study)} == {0, 1}


# Use in a study


@pytest.mark.parametrize(
    "wrong",
    [
        {"population_size": 0},
        {"population_size": -3},
        {"n_parents": 0},
        {"mutation_fraction": -0.1},
        {"mutation_fraction": 1.1},
        {"mutation_prob": 2},
        {"mutation_prob": math.nan},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"The `{name}` of EvolutionSampler must.*got {value}"):
        EvolutionSampler(**wrong)


def test_two_workers_share_a_study():
    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=60, n_jobs=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 60
    # The first generation depends on nothing but the seed, whoever evaluates it.
    alone = params(run(sampler(), 10))
    assert sum(p == q for p, q in zip(params(study), alone, strict=False)) == 10


def test_queued_trials_keep_the_parameters_that_they_were_given():
    study = run(sampler(), 12)
    study.enqueue_trial({"x1": 4, "x3": 0})
    study.enqueue_trial(dict.fromkeys(NAMES, 2))
    study.optimize(objective, n_trials=3)
    assert (params(study)[12]["x1"], params(study)[12]["x3"]) == (4, 0)
    assert set(params(study)[12]) == set(NAMES)
    assert params(study)[13] == dict.fromkeys(NAMES, 2)


def test_numbers_are_evolved_as_well():
    def objective(trial):
        x = trial.suggest_float("x", -10, 10)
        y = trial.suggest_int("y", 0, 100, step=5)
        z = trial.suggest_categorical("z", ["a", "b"])
        return x**2 + (y - 50) ** 2 + (z == "a")

    study = run(EvolutionSampler(population_size=20, n_parents=5, seed=0), 200, objective)
    assert study.best_value < 1


def test_evolution_beats_random_search():
    space = {f"x{i:02}": CategoricalDistribution(range(4)) for i in range(20)}

    def objective(trial):
        return float(sum(suggest(trial, space).values()))

    def best(make):
        return np.mean([run(make(seed), 300, objective).best_value for seed in range(3)])

    evolved = best(
        lambda seed: EvolutionSampler(
            population_size=25, n_parents=6, search_space=space, seed=seed
        )
    )
    drawn = best(lambda seed: RandomSampler(seed=seed))
    assert evolved < 0.6 * drawn


def test_few_trials_are_repeated_when_parents_have_become_alike():
    study = optuna.create_study(sampler=EvolutionSampler(population_size=10, n_parents=3, seed=0))
    study.optimize(
        lambda t: sum(t.suggest_categorical(f"x{i}", list(range(5))) for i in range(6)),
        n_trials=200,
    )
    assert len({tuple(trial.params.values()) for trial in study.trials}) > 180


# Several objectives


def trade_off(trial):
    """Half of the parameters cost and are worth nothing."""
    values = suggest(trial).values()
    return float(sum(v for i, v in enumerate(values) if i % 2)), float(sum(values))


def test_several_objectives_are_evolved_together():
    def dominated(make):
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=make)
        study.optimize(trade_off, n_trials=200)
        # The front is where nothing is spent in vain.
        return sum(t.values[1] - t.values[0] for t in study.trials[100:])

    assert dominated(sampler(population_size=20, n_parents=8)) < 0.5 * dominated(
        RandomSampler(seed=0)
    )


def test_parents_of_several_objectives_are_the_front():
    study = optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=EvolutionSampler(
            population_size=8,
            n_parents=3,
            mutation_fraction=0.0,
            search_space=TICKETS,
            region=Tickets(),
            seed=0,
        ),
    )
    values = [(0, 0), (5, 1), (1, 5), (9, 2), (9, 9), (3, 4), (4, 4), (8, 8)]

    def objective(trial):
        return values[suggest(trial, TICKETS)["x0"] % 8]

    study.optimize(objective, n_trials=16)
    # Of the front {0, 2, 4, 7} these are the extreme points and the one with more room around it.
    assert genes_of(t.params.values() for t in study.trials[8:]) == {0, 2, 4}


def test_constraints_come_before_objectives():
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler(n_parents=3))

    def objective(trial):
        values = suggest(trial)
        trial.set_constraint("even", float(sum(value % 2 for value in values.values())))
        return float(sum(values.values())), float(values["x0"])

    study.optimize(objective, n_trials=150)
    late = [sum(t.constraints.values()) for t in study.trials[100:]]
    assert np.mean(late) < 0.5 * np.mean([sum(t.constraints.values()) for t in study.trials[:10]])


def test_an_interrupted_study_of_several_objectives_goes_on_as_if_it_had_not_been():
    def go(parts):
        study = optuna.create_study(directions=["maximize", "minimize"])
        for part in parts:
            study.sampler = sampler()
            study.optimize(trade_off, n_trials=part)
        return params(study)

    assert go([7, 20, 8]) == go([35])


# Hand-picked first proposals


def test_initial_proposals_take_the_first_places():
    picked = [dict.fromkeys(NAMES, 4), {"x1": 0, "x4": 3}]
    found = params(run(sampler(initial=picked), 12))
    plain = params(run(sampler(), 12))
    assert found[0] == picked[0]
    assert {name: found[1][name] for name in ("x1", "x4")} == picked[1]
    assert found[2:10] == plain[2:10]


def test_initial_proposals_do_not_need_the_search_space():
    picked = [dict.fromkeys(NAMES, 4), {"x1": 0, "unheard of": 3}]
    found = params(run(sampler(search_space=None, initial=picked), 3))
    assert found[0] == picked[0]
    assert found[1]["x1"] == 0


def test_initial_values_that_a_trial_cannot_take_are_drawn_with_a_warning():
    with pytest.warns(UserWarning, match=r"`initial`.*for 'x0', got 17"):
        found = params(run(sampler(search_space=None, initial=[{"x0": 17, "x1": 2}]), 1))
    assert found[0]["x0"] in range(5)
    assert found[0]["x1"] == 2


def test_initial_proposals_are_repaired_into_the_region(region):
    space = region.space
    largest = {d.name: d.choices[int(np.argmax(d.costs))] for d in space.dimensions}
    smallest = {d.name: d.choices[int(np.argmin(d.costs))] for d in space.dimensions}
    made = sampler(
        search_space=space.distributions(), region=region, initial=[largest, smallest], n_parents=1
    )
    study = run(made, 2, lambda trial: space.count(suggest(trial, space.distributions())))
    assert 0.9 * region.budget < study.trials[0].value <= region.budget
    assert study.trials[1].params == smallest


def test_an_initial_number_becomes_what_the_distribution_gives():
    space = {"f": FloatDistribution(0, 9), "i": IntDistribution(0, 9)}
    study = optuna.create_study(sampler=sampler(search_space=space, initial=[{"f": 3, "i": 4}]))
    found = study.ask(space).params
    assert found == {"f": 3, "i": 4}
    assert [type(value) for value in found.values()] == [float, int]


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ([{}] * 11, "at most 10 proposals, the `population`, got 11"),
        ([{"x9": 1}], "name parameters such as x0, x1.*, got 'x9'"),
        ([{}, {"x1": 5}], "for 'x1', got 5"),
    ],
)
def test_initial_proposals_that_cannot_be_meant_are_refused(initial, message):
    with pytest.raises(ValueError, match=rf"The `initial` of EvolutionSampler must.*{message}"):
        sampler(initial=initial)


# Any space


def test_spaces_of_any_kind_are_searched():
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["a", "b", None, 3, 1.5, True])
        depth = trial.suggest_int("depth", 1, 64, log=True)
        total = trial.suggest_float("rate", 1e-6, 1.0, log=True)
        for i in range(depth % 4):
            total += trial.suggest_float(f"width{i}", 0, 1 + depth)  # a range that moves
        total += trial.suggest_int("one", 7, 7) + trial.suggest_float("step", 0, 1, step=0.25)
        if depth > 60:
            raise optuna.TrialPruned
        return total + (kind == "a")

    study = run(EvolutionSampler(population_size=10, n_parents=4, seed=0), 80, objective)
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_value < 9


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_choices_that_cannot_be_hashed_are_searched():
    def objective(trial):
        return sum(sum(trial.suggest_categorical(f"x{i}", [[0], [1, 2], [3]])) for i in range(3))

    study = run(EvolutionSampler(population_size=5, n_parents=2, seed=0), 25, objective)
    assert study.best_value == 0


def test_pruned_proposals_are_not_made_again():
    space = {"b": CategoricalDistribution(range(30))}
    seen = []

    def objective(trial):
        seen.append(trial.suggest_categorical("b", range(30)))
        raise optuna.TrialPruned

    run(sampler(search_space=space, population_size=20), 12, objective)
    assert len(set(seen)) == 12


def test_brackets_of_a_pruner_share_one_evolution():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = run(sampler(), 60, pruner=pruner)
    assert params(study) == params(run(sampler(), 60))
