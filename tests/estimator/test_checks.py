"""scikit-learn's own checks of an estimator."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from glora_automl import GLoRAClassifier

TINY = {"img_size": 4, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2, "mlp_ratio": 1}

EXPECTED: dict[str, str] = {}


@parametrize_with_checks(
    [
        GLoRAClassifier(
            "vit_tiny_patch16_224",
            pretrained=False,
            model_kwargs=TINY,
            budget="20%",
            search_space="vectors",
            epochs=5,
            trials=2,
            settings={
                "training": {"lr": 0.005, "batch_size": 32},
                "selection": {"finetune_epochs": 0},
            },
            image_shape=(1, -1),
            random_state=0,
        )
    ],
    expected_failed_checks=lambda estimator: EXPECTED,
    xfail_strict=True,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
