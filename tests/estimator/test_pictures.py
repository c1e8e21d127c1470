from glora_automl.estimator._pictures import SIDE, picture_size


def test_picture_size_of_an_unknown_tag_is_left_to_the_creation_of_the_model():
    assert picture_size("vit_tiny_patch16_224.foo", {}) == SIDE
