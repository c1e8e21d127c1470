"""Use the search as the last step of a scikit-learn pipeline, and cross-validate it.

python examples/sklearn_pipeline.py
python examples/sklearn_pipeline.py --small
"""

from sample import SMALL, arguments
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from glora_automl import GLoRAClassifier


def brighten(pixels):
    """Stretch the digits' 17 shades to those of a byte."""
    return pixels * 15


def main() -> None:
    options = arguments(__doc__)
    x, y = load_digits(return_X_y=True)
    x, y = x[:300], y[:300]
    classifier = GLoRAClassifier(
        "vit_small_patch16_224.augreg_in21k", budget="1%", n_trials=100, random_state=0
    )
    if options.small:
        backbone = SMALL["backbone"]
        classifier.set_params(
            model=backbone["model"], model_kwargs=backbone["kwargs"], pretrained=False,
            budget="20%", epochs=4, n_trials=4,
        )  # fmt: skip
        x, y = x[:120], y[:120]
    pipeline = make_pipeline(FunctionTransformer(brighten), classifier)
    scores = cross_val_score(pipeline, x, y, cv=2)
    print(f"accuracy {scores.mean():.1%} over {len(scores)} folds")


if __name__ == "__main__":
    main()
