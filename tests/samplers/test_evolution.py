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
    """Log no line per trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


NAMES = tuple(f"x{i}" for i in range(6))
SPACE = {name: CategoricalDistribution(range(5)) for name in NAMES}


def suggest(trial, space=SPACE):
    return {name: trial.suggest_categorical(name, dist.choices) for name, dist in space.items()}


def objective(trial):
    """A separable objective with another best value for each parameter."""
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


# Seeds


def test_sampler_with_equal_seed_repeats_trials():
    first = params(run(sampler(), 40))
    assert params(run(sampler(), 40)) == first
    assert params(run(sampler(seed=1), 40)) != first


def test_sampler_without_seed_draws_other_trials():
    first, second = (run(sampler(seed=None), 10) for _ in range(2))
    assert params(first) != params(second)


def test_sampler_ignores_global_random_state():
    np.random.seed(1)  # noqa: NPY002
    first = sampler()
    first.reseed_rng()
    np.random.seed(2)  # noqa: NPY002
    assert params(run(first, 20)) == params(run(sampler(), 20))


def resume(url, trials, known):
    """Resume a study in a process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="a",
        storage=url,
        sampler=sampler(search_space=SPACE if known else None),
        load_if_exists=True,
    )
    study.optimize(objective, n_trials=trials)


@pytest.mark.parametrize("known", [True, False], ids=["given space", "inferred space"])
def test_samplers_in_turns_on_one_file_equal_one_sampler(tmp_path, known):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    for trials in (7, 20, 8):
        resume(url, trials, known)
    found = optuna.load_study(study_name="a", storage=url)
    assert params(found) == params(run(sampler(search_space=SPACE if known else None), 35))


def test_processes_in_turns_on_one_file_equal_one_process(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    for trials in (25, 5, 30):
        process = start(resume, url, trials, True, folder=tmp_path)
        assert process.wait() == 0, process.err
    found = optuna.load_study(study_name="a", storage=url)
    assert params(found) == params(run(sampler(), 60))


# Interruptions


def requeue(study):
    """Enqueue the stale trials again, as a worker does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback()
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        retry(study, study.tell(trial.number, state=TrialState.FAIL))


def complete(study):
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    return [(trial.params, trial.value) for trial in trials]


def interrupted(stops, suggested, known):
    """Return a study of 45 complete trials whose worker was killed after each of the stops."""
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


@pytest.mark.parametrize("known", [True, False], ids=["given space", "inferred space"])
@pytest.mark.parametrize("suggested", [0, 3, 6])
@pytest.mark.parametrize("stops", [[0], [4], [10], [23], [4, 13, 30], [23, 23, 23]], ids=str)
def test_sampler_after_interruptions_repeats_uninterrupted_trials(stops, suggested, known):
    study = interrupted(stops, suggested, known)
    assert complete(study) == complete(run(sampler(search_space=SPACE if known else None), 45))
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.FAIL) == len(stops)
    assert len(states) == 45 + len(stops)


# Parents

TICKETS = {name: CategoricalDistribution(range(1000)) for name in NAMES}


class Tickets:
    """A region whose draws are all 0, all 1, all 2, ..., so each gene names its origin."""

    def __init__(self):
        self.numbers = count()

    def draw(self, rng):
        number = next(self.numbers)
        return dict.fromkeys(NAMES, number)

    def repair(self, params, rng):
        return dict(params)


def ticket_study(trials, value, **options):
    """Return the genes of each trial of a study with objective ``value(trial, params)``."""
    sampler = EvolutionSampler(
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
    study = optuna.create_study(sampler=sampler)
    study.optimize(
        lambda trial: value(trial, suggest(trial, TICKETS)),
        n_trials=trials,
        catch=(ArithmeticError,),
    )
    return [tuple(trial.params[name] for name in NAMES) for trial in study.trials]


def genes_of(trials):
    return {gene for trial in trials for gene in trial}


def test_first_generation_is_drawn_from_region():
    genes = ticket_study(8, lambda trial, _: 0.0)
    assert genes == [(number,) * 6 for number in range(8)]


def test_children_have_genes_of_best_earlier_trials():
    best = ticket_study(16, lambda trial, x: float(abs(x["x0"] - 4)))
    assert genes_of(best[8:]) == {3, 4, 5}


def test_parents_of_maximized_objective_have_highest_values():
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


def test_crossover_has_genes_of_two_parents():
    children = ticket_study(
        64, lambda trial, _: float(trial.number), population_size=32, n_parents=32
    )[32:]
    assert all(len(set(child)) <= 2 for child in children)
    assert sum(len(set(child)) == 2 for child in children) > 24
    # The parent of each gene is drawn for each child.
    patterns = {tuple(gene == child[0] for gene in child) for child in children}
    assert len(patterns) > 10


def test_mutation_has_genes_of_one_parent_and_new_ones():
    genes = ticket_study(
        64,
        lambda trial, _: float(trial.number),
        population_size=32,
        n_parents=32,
        mutation_fraction=1.0,
    )
    inherited = [[gene for gene in child if gene < 32] for child in genes[32:]]
    kept = [max(map(of_child.count, of_child), default=0) for of_child in inherited]
    # A new gene is rarely one of the 32 old ones.
    assert sum(map(len, inherited)) - sum(kept) < 5
    # Each of the 192 genes is kept with probability 0.8.
    assert 130 < sum(kept) < 180


def test_mutation_prob_applies_to_each_gene():
    everything = ticket_study(
        48, lambda trial, _: 0.0, population_size=24, mutation_fraction=1.0, mutation_prob=1.0
    )
    # Of 1000 values, a new gene is rarely one of the 24 old ones.
    new = [gene for child in everything[24:] for gene in child if gene >= 24]
    assert len(new) > 120
    nothing = ticket_study(
        16, lambda trial, x: float(x["x0"]), mutation_fraction=1.0, mutation_prob=0.0
    )
    # Copies are duplicates, but every attempt is a copy, up to the last one.
    assert set(nothing[8:]) <= {(0,) * 6, (1,) * 6, (2,) * 6}
    assert len(set(nothing[8:])) > 1


def test_mutation_fraction_sets_mutations_per_generation():
    genes = ticket_study(
        24,
        lambda trial, x: float(x["x0"]),
        population_size=12,
        mutation_fraction=0.25,
        mutation_prob=1.0,
    )
    assert all(max(child) >= 12 for child in genes[12:15])
    assert genes_of(genes[15:]) == {0, 1, 2}


def test_parents_are_of_earlier_generations():
    # Mutations have new genes, and each new gene is better than all earlier ones.
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


def test_parents_with_enough_feasible_trials_are_feasible():
    def value(trial, x):
        odd = x["x0"] % 2
        trial.set_constraint("size", 1.0 if odd else -1.0)
        return -1000.0 if odd else float(x["x0"])

    assert genes_of(ticket_study(16, value)[8:]) == {0, 2, 4}


def test_parents_without_feasible_trials_have_least_violation():
    def value(trial, x):
        trial.set_constraint("size", 10.0 - x["x0"])
        return float(x["x0"])

    assert genes_of(ticket_study(16, value)[8:]) == {5, 6, 7}


def test_parents_exclude_failed_and_pruned_trials():
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


def test_parents_exclude_duplicates():
    sampler = EvolutionSampler(
        population_size=8,
        n_parents=2,
        mutation_fraction=0.0,
        search_space=TICKETS,
        region=Tickets(),
        seed=0,
    )
    study = optuna.create_study(sampler=sampler)
    for number in (900, 900, 900, 899):
        study.enqueue_trial(dict.fromkeys(NAMES, number))
    study.optimize(lambda trial: -suggest(trial, TICKETS)["x0"], n_trials=16)
    genes = {gene for trial in study.trials[8:] for gene in trial.params.values()}
    assert genes == {899, 900}


def test_children_in_smaller_space_have_only_its_choices():
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


@pytest.mark.parametrize("mutation_fraction", [0.0, 0.5, 1.0])
def test_sampler_with_region_proposes_inside(region, mutation_fraction):
    space = region.space
    made = EvolutionSampler(
        population_size=15,
        n_parents=4,
        mutation_fraction=mutation_fraction,
        mutation_prob=0.5,
        search_space=space.distributions(),
        region=region,
        seed=0,
    )
    counts = []

    def objective(trial):
        counts.append(space.count(suggest(trial, space.distributions())))
        return -counts[-1]  # larger architectures are better, up to the budget

    run(made, 60, objective)
    assert max(counts) <= region.budget
    assert max(counts[15:]) > 0.9 * region.budget
    assert len(set(counts)) > 20


# Duplicates


def test_sampler_proposes_no_duplicates():
    space = {f"b{i}": CategoricalDistribution([0, 1]) for i in range(8)}
    made = sampler(population_size=100, search_space=space)
    # 100 draws among 256 points would repeat about 17 of them.
    study = run(made, 100, lambda trial: sum(suggest(trial, space).values()))
    assert len({tuple(p.items()) for p in params(study)}) == 100


def test_sampler_in_exhausted_space_repeats_trials():
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
def test_sampler_with_argument_out_of_range_raises(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"^`{name}` must.*got {value}\. .*`{name}`"):
        EvolutionSampler(**wrong)


def test_sampler_with_two_workers_completes_all_trials():
    study = optuna.create_study(sampler=sampler())
    study.optimize(objective, n_trials=60, n_jobs=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 60
    # The first generation depends only on the seed.
    expected = params(run(sampler(), 10))
    assert sum(p == q for p, q in zip(params(study), expected, strict=False)) == 10


def test_sampler_keeps_enqueued_parameters():
    study = run(sampler(), 12)
    study.enqueue_trial({"x1": 4, "x3": 0})
    study.enqueue_trial(dict.fromkeys(NAMES, 2))
    study.optimize(objective, n_trials=3)
    assert (params(study)[12]["x1"], params(study)[12]["x3"]) == (4, 0)
    assert set(params(study)[12]) == set(NAMES)
    assert params(study)[13] == dict.fromkeys(NAMES, 2)


def test_sampler_optimizes_numerical_parameters():
    def objective(trial):
        x = trial.suggest_float("x", -10, 10)
        y = trial.suggest_int("y", 0, 100, step=5)
        z = trial.suggest_categorical("z", ["a", "b"])
        return x**2 + (y - 50) ** 2 + (z == "a")

    study = run(EvolutionSampler(population_size=20, n_parents=5, seed=0), 200, objective)
    assert study.best_value < 1


def test_sampler_beats_random_search():
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


def test_sampler_after_convergence_proposes_few_duplicates():
    study = optuna.create_study(sampler=EvolutionSampler(population_size=10, n_parents=3, seed=0))
    study.optimize(
        lambda t: sum(t.suggest_categorical(f"x{i}", list(range(5))) for i in range(6)),
        n_trials=200,
    )
    assert len({tuple(trial.params.values()) for trial in study.trials}) > 180


# Several objectives


def trade_off(trial):
    """Two objectives; half of the parameters have a cost and no value."""
    values = suggest(trial).values()
    return float(sum(v for i, v in enumerate(values) if i % 2)), float(sum(values))


def test_sampler_with_several_objectives_beats_random_search():
    def dominated(make):
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=make)
        study.optimize(trade_off, n_trials=200)
        # On the Pareto front the cost equals the value.
        return sum(t.values[1] - t.values[0] for t in study.trials[100:])

    assert dominated(sampler(population_size=20, n_parents=8)) < 0.5 * dominated(
        RandomSampler(seed=0)
    )


def test_parents_with_several_objectives_are_pareto_front():
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
    # Of the front {0, 2, 4, 7} these are the extreme points and the least crowded one.
    assert genes_of(t.params.values() for t in study.trials[8:]) == {0, 2, 4}


def test_sampler_with_several_objectives_reduces_violation():
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler(n_parents=3))

    def objective(trial):
        values = suggest(trial)
        trial.set_constraint("even", float(sum(value % 2 for value in values.values())))
        return float(sum(values.values())), float(values["x0"])

    study.optimize(objective, n_trials=150)
    late = [sum(t.constraints.values()) for t in study.trials[100:]]
    assert np.mean(late) < 0.5 * np.mean([sum(t.constraints.values()) for t in study.trials[:10]])


def test_sampler_with_several_objectives_resumes_equally():
    def resume(parts):
        study = optuna.create_study(directions=["maximize", "minimize"])
        for part in parts:
            study.sampler = sampler()
            study.optimize(trade_off, n_trials=part)
        return params(study)

    assert resume([7, 20, 8]) == resume([35])


# Initial proposals


def test_initial_proposals_are_first_trials():
    initial = [dict.fromkeys(NAMES, 4), {"x1": 0, "x4": 3}]
    found = params(run(sampler(initial=initial), 12))
    plain = params(run(sampler(), 12))
    assert found[0] == initial[0]
    assert {name: found[1][name] for name in ("x1", "x4")} == initial[1]
    assert found[2:10] == plain[2:10]


def test_initial_proposals_without_search_space_are_used():
    initial = [dict.fromkeys(NAMES, 4), {"x1": 0, "unknown": 3}]
    found = params(run(sampler(search_space=None, initial=initial), 3))
    assert found[0] == initial[0]
    assert found[1]["x1"] == 0


def test_initial_value_outside_distribution_warns_and_is_drawn():
    with pytest.warns(UserWarning, match=r"`initial`.*for 'x0', got 17"):
        found = params(run(sampler(search_space=None, initial=[{"x0": 17, "x1": 2}]), 1))
    assert found[0]["x0"] in range(5)
    assert found[0]["x1"] == 2


def test_initial_proposals_are_repaired_into_region(region):
    space = region.space
    largest = {d.name: d.choices[int(np.argmax(d.costs))] for d in space.dimensions}
    smallest = {d.name: d.choices[int(np.argmin(d.costs))] for d in space.dimensions}
    made = sampler(
        search_space=space.distributions(), region=region, initial=[largest, smallest], n_parents=1
    )
    study = run(made, 2, lambda trial: space.count(suggest(trial, space.distributions())))
    assert 0.9 * region.budget < study.trials[0].value <= region.budget
    assert study.trials[1].params == smallest


def test_initial_number_is_converted_to_distribution():
    space = {"f": FloatDistribution(0, 9), "i": IntDistribution(0, 9)}
    study = optuna.create_study(sampler=sampler(search_space=space, initial=[{"f": 3, "i": 4}]))
    found = study.ask(space).params
    assert found == {"f": 3, "i": 4}
    assert [type(value) for value in found.values()] == [float, int]


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ([{}] * 11, "at most 10 proposals, got 11. .*`population_size`"),
        ([{"x9": 1}], "name parameters of `search_space`, got 'x9'. .*such as x0, x1"),
        ([{}, {"x1": 5}], "values of `search_space`, got 5 for 'x1'"),
    ],
)
def test_initial_proposals_outside_search_space_raise(initial, message):
    with pytest.raises(ValueError, match=rf"^`initial` must.*{message}"):
        sampler(initial=initial)


# Search spaces


def test_sampler_in_conditional_space_completes_trials():
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["a", "b", None, 3, 1.5, True])
        depth = trial.suggest_int("depth", 1, 64, log=True)
        total = trial.suggest_float("rate", 1e-6, 1.0, log=True)
        for i in range(depth % 4):
            total += trial.suggest_float(f"width{i}", 0, 1 + depth)  # a range that depends on depth
        total += trial.suggest_int("one", 7, 7) + trial.suggest_float("step", 0, 1, step=0.25)
        if depth > 60:
            raise optuna.TrialPruned
        return total + (kind == "a")

    study = run(EvolutionSampler(population_size=10, n_parents=4, seed=0), 80, objective)
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_value < 9


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_sampler_optimizes_unhashable_choices():
    def objective(trial):
        return sum(sum(trial.suggest_categorical(f"x{i}", [[0], [1, 2], [3]])) for i in range(3))

    study = run(EvolutionSampler(population_size=5, n_parents=2, seed=0), 25, objective)
    assert study.best_value == 0


def test_sampler_does_not_repeat_pruned_proposals():
    space = {"b": CategoricalDistribution(range(30))}
    evaluated = []

    def objective(trial):
        evaluated.append(trial.suggest_categorical("b", range(30)))
        raise optuna.TrialPruned

    run(sampler(search_space=space, population_size=20), 12, objective)
    assert len(set(evaluated)) == 12


def test_sampler_with_hyperband_ignores_brackets():
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9)
    study = run(sampler(), 60, pruner=pruner)
    assert params(study) == params(run(sampler(), 60))
