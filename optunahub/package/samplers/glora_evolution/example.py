"""Find the useful half of 20 ranks under a budget, with two objectives."""

from __future__ import annotations

import optuna

import optunahub

REGISTRY = None
"""Root of a local registry; None loads the package from OptunaHub."""


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Return accuracy and size; a size of at most 60 is feasible."""
    ranks = [trial.suggest_categorical(f"layer{i}.rank", [0, 2, 4, 8]) for i in range(20)]
    size = sum(ranks)
    trial.set_constraint("size", size - 60)
    accuracy = sum((i % 2) * rank / (rank + 2) for i, rank in enumerate(ranks)) / 10
    return accuracy, size


def main(registry: str | None = REGISTRY, n_trials: int = 200) -> optuna.Study:
    """Load the sampler, search, and print the Pareto front."""
    package = "samplers/glora_evolution"
    if registry is None:
        module = optunahub.load_module(package)
    else:
        module = optunahub.load_local_module(package, registry_root=registry)
    sampler = module.EvolutionSampler(population_size=25, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=n_trials)
    for trial in sorted(study.best_trials, key=lambda trial: trial.values[1]):
        print(f"size {trial.values[1]:3.0f}: accuracy {trial.values[0]:.2f}")
    return study


if __name__ == "__main__":
    main()
