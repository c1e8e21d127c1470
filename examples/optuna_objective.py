"""Search an adapter in an Optuna study of your own: TPE, callbacks, any storage.

python examples/optuna_objective.py
python examples/optuna_objective.py --small
"""

import optuna
import timm
from sample import SMALL, arguments
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from glora_automl import AdapterProblem, Workspace


def log_best(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Print each new best trial: a callback sees what Optuna sees."""
    if study.best_trials and study.best_trial.number == trial.number:
        print(f"trial {trial.number}: loss {trial.value:.3f}")


def main() -> None:
    options = arguments(__doc__, storage=None)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line has hundreds of parameters
    images, labels = load_digits().images.astype("uint8") * 15, load_digits().target
    x, x_val, y, y_val = train_test_split(
        images, labels, train_size=200, test_size=200, stratify=labels, random_state=0
    )
    model, settings = "vit_small_patch16_224.augreg_in21k", {}
    if options.small:
        backbone = SMALL["backbone"]
        model = timm.create_model(backbone["model"], num_classes=10, **backbone["kwargs"])
        settings = {"training": SMALL["training"]}
    problem = AdapterProblem(
        model, (x, y), (x_val, y_val), budget="20%" if options.small else "1%",
        settings=settings, workspace=Workspace(runs=options.runs),
    )  # fmt: skip
    study = optuna.create_study(
        storage=options.storage,
        direction=problem.direction,
        sampler=optuna.samplers.TPESampler(seed=0, multivariate=True),
    )
    for params in problem.proposals():  # TPE does not know the budget: begin within it
        study.enqueue_trial(params)
    n_trials = 8 if options.small else 200
    study.optimize(problem.objective, n_trials=n_trials, callbacks=[log_best])
    best = problem.architecture(study.best_trial)
    print(best)
    print(f"{best.count(problem.space.shapes):,} of {problem.budget:,} parameters")
    merged = problem.build(best)
    print(f"a plain {type(merged).__name__}")


if __name__ == "__main__":
    main()
