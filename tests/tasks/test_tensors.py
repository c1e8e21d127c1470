import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from glora_automl.errors import TaskError
from glora_automl.tasks import ImageSet, InputFormat, TensorImages, images_of, splits_of

CPU = torch.device("cpu")
TARGET = InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3)


class Items(Dataset):
    """A map-style data set without further methods."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (pixels(4, 6, 5), (4, 1, 6, 5)),
        (pixels(4, 6, 5, 3), (4, 3, 6, 5)),
        (torch.from_numpy(pixels(4, 3, 6, 5)), (4, 3, 6, 5)),
        (pixels(4, 6, 5).tolist(), None),
    ],
    ids=["grey array", "colour array", "tensor", "list"],
)
def test_images_of_bytes_are_raw_images(images, shape):
    if shape is None:  # a list has no uint8
        with pytest.raises(TaskError, match="train must be a pair"):
            images_of((images, [0, 1, 0, 1]), "train")
        return
    found = images_of((images, [0, 1, 0, 1]), "train")
    assert isinstance(found, ImageSet)
    assert found.images.shape == shape
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.labels.dtype == torch.int64
    prepared, _ = found.prepare(TARGET, CPU)
    assert prepared[:].shape == (4, 3, 8, 8)
    expected = np.asarray(images)
    if isinstance(images, np.ndarray):
        expected = expected[:, None] if expected.ndim == 3 else expected.transpose(0, 3, 1, 2)
    assert np.array_equal(found.images.numpy(), expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, torch.float32, torch.float16])
def test_images_of_floats_are_taken_as_they_are(kind):
    values = np.random.default_rng(0).normal(size=(4, 2, 6, 5))
    is_tensor = isinstance(kind, torch.dtype)
    images = torch.from_numpy(values).to(kind) if is_tensor else values.astype(kind)
    found = images_of((images, np.array([2, 0, 1, 1])), "train")
    assert isinstance(found, TensorImages)
    prepared, labels = found.prepare(TARGET, CPU)
    assert prepared.dtype == torch.float32
    np.testing.assert_allclose(prepared[:].numpy(), np.asarray(images, dtype=np.float32))
    assert labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("item", "kind", "shape"),
    [
        (pixels(6, 5), ImageSet, (1, 6, 5)),
        (pixels(6, 5, 3), ImageSet, (3, 6, 5)),
        (torch.rand(2, 6, 5), TensorImages, (2, 6, 5)),
        (torch.from_numpy(pixels(3, 6, 5)), ImageSet, (3, 6, 5)),
    ],
    ids=["grey array", "colour array", "float tensor", "byte tensor"],
)
def test_images_of_a_data_set_are_its_items(item, kind, shape):
    for label in (1, np.int64(1), torch.tensor(1)):
        found = images_of(Items([(item, label), (item, 0), (item, 2)]), "train")
        assert isinstance(found, kind)
        assert found.images.shape == (3, *shape)
        assert found.labels.tolist() == [1, 0, 2]


def test_images_of_two_items_are_a_data_set_not_a_pair():
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([1, 0])
    for data in (TensorDataset(images, labels), Items([(images[0], 1), (images[1], 0)])):
        found = images_of(data, "train")
        assert torch.equal(found.images, images)
        assert found.labels.tolist() == [1, 0]


@pytest.mark.parametrize("of", [list, tuple])
def test_images_of_a_list_of_tensors_have_channels_first(of):
    images = torch.from_numpy(pixels(4, 3, 6, 5))
    assert torch.equal(images_of((of(images), [0, 1, 0, 1]), "train").images, images)


def test_images_of_pil_images():
    image = pytest.importorskip("PIL.Image").fromarray(pixels(6, 5, 3))
    found = images_of(Items([(image, 0), (image, 1)]), "train")
    assert np.array_equal(found.images[0].permute(1, 2, 0).numpy(), np.asarray(image))


def test_images_of_a_pair_are_a_copy_without_gradient():
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    for given in (images, list(images)):
        found = images_of((given, [0, 1]), "train")
        assert not found.images.requires_grad
        assert torch.equal(found.images, images)
    array = np.zeros((2, 4, 4), dtype=np.uint8)
    found = images_of((array, [0, 1]), "train")
    array[:] = 9
    assert not found.images.any()


FLOATS = torch.rand(4, 1, 4, 4)
WRONG = {
    "float labels": ((FLOATS, torch.ones(4)), "float32"),
    "negative label": ((FLOATS, [0, -1, 0, 1]), "labels"),
    "two labels per image": ((FLOATS, torch.zeros(4, 2, dtype=torch.int64)), r"\(4, 2\)"),
    "too few labels": ((FLOATS, [0, 1]), "2 labels"),
    "no images": ((FLOATS[:0], []), r"labels of shape \(0,\)"),
    "three dimensions": ((FLOATS[0], [0]), r"\(1, 4, 4\)"),
    "integers": ((FLOATS.long(), [0, 1, 0, 1]), "int64"),
    "integer array": ((np.zeros((4, 4, 4), dtype=np.int32), [0, 1, 0, 1]), "int32"),
    "number": (7, "int"),
    "None": (None, "NoneType"),
    "different sizes": (Items([(pixels(4, 4), 0), (pixels(5, 4), 1)]), "Items"),
    "different tensors": (Items([(FLOATS[0], 0), (FLOATS[0, :, :2], 1)]), "Items"),
    "item without label": (Items([(FLOATS[0],)]), "Items"),
    "label no number": (Items([(FLOATS[0], "cat")]), "Items"),
    "empty data set": (Items([]), "Items"),
    "texts": ((FLOATS, np.array(list("abab"))), "type <U1"),
    "list of texts": ((FLOATS, list("abab")), "type <U1"),
    "objects": ((FLOATS, np.array(list("abab"), dtype=object)), "type object"),
    "no labels": ((FLOATS, None), "type object"),
    "ragged labels": ((FLOATS, [[0], [1, 0], 1, 0]), "labels that are no array"),
    "half labels": ((FLOATS, torch.zeros(4, dtype=torch.bfloat16)), "labels that are no array"),
    "huge label": ((FLOATS, [0, 10**9, 1, 0]), "labels from 0 to 1000000000, not below 100,000"),
    "huge label of an item": (Items([(FLOATS[0], 10**9)]), "to 1000000000"),
    "label beyond int64": ((FLOATS, np.array([0, 2**64 - 1, 1, 0], np.uint64)), "to 184467"),
    "label beyond all types": ((FLOATS, [0, 2**70, 1, 0]), "type object"),
    "ragged images": (([pixels(4, 4), pixels(5, 4)], [0, 1]), "images of different sizes"),
    "tensors of several sizes": (([FLOATS[0], FLOATS[0, :, :2]], [0, 1]), "images of different"),
    "tensors and arrays": (([FLOATS[0], FLOATS[0].numpy()], [0, 1]), "images of different"),
    "tensor with gradient after an array": (
        ([FLOATS[0].numpy(), FLOATS[0].clone().requires_grad_()], [0, 1]),
        "images of different sizes or types",
    ),
    "sparse images": ((FLOATS.to_sparse(), [0, 1, 0, 1]), "a tensor of layout torch.sparse_coo"),
    "sparse items": (Items([(FLOATS[0].to_sparse(), 0)] * 2), "a tensor of layout torch.sparse"),
    "sparse labels": ((FLOATS, torch.tensor([0, 1, 0, 1]).to_sparse()), "labels that are no array"),
    "labels with gradient": (
        (FLOATS, list(torch.ones(4, requires_grad=True))),
        "labels that are no array",
    ),
    "items are tables": (Items([{"image": FLOATS[0], "label": 0}]), "items of type dict"),
    "items are tensors": (Items([FLOATS[0]]), "items of type Tensor"),
    "NaN": ((torch.where(torch.arange(4) == 1, torch.nan, FLOATS), [0, 1, 0, 1]), "in image 0"),
    "infinite": (
        (np.float32([[[[0.0]]], [[[np.inf]]]]), [0, 1]),
        "infinite pixels, first in image 1",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_of_other_data_raise_one_line_with_the_argument(name):
    data, words = WRONG[name]
    with pytest.raises(TaskError, match=words) as caught:
        images_of(data, "validation")
    message = str(caught.value)
    assert message.startswith("validation must be a pair (images, labels)")
    assert message.endswith("Correct `validation`.")
    assert "\n" not in message


KINDS = [np.bool_, np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [np.array, torch.tensor, list], ids=["array", "tensor", "list"])
def test_images_of_labels_of_any_integer_type_are_int64(kind, of):
    labels = np.array([1, 0, 1, 1]).astype(kind)
    found = images_of((FLOATS, of(labels)), "train").labels
    assert found.dtype == torch.int64
    assert found.tolist() == [1, 0, 1, 1]


def test_splits_of_different_preprocessing_raise():
    labels = [0, 1, 0, 1]
    floats, raw = (FLOATS, labels), (pixels(4, 4, 4), labels)
    for pair in ((floats, floats), (raw, raw)):
        assert [part.labels.tolist() for part in splits_of(*pair)] == [labels, labels]
    for train, validation, got in ((floats, raw, "float and uint8"), (raw, floats, "uint8 and fl")):
        with pytest.raises(TaskError, match=f"must both be uint8 .* or both float, got {got}") as e:
            splits_of(train, validation)
        assert "\n" not in str(e.value)


def test_splits_of_one_class_raise():
    with pytest.raises(TaskError, match="train must have images of at least two classes"):
        splits_of((FLOATS, [1, 1, 1, 1]), (FLOATS, [0, 1, 0, 1]))


def test_subset_and_digests_follow_images_and_labels():
    images, labels = torch.rand(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    found = images_of((images, labels), "train")
    part = found.subset(torch.tensor([3, 1]))
    assert torch.equal(part.images, images[[3, 1]])
    assert part.labels.tolist() == [0, 1]
    assert len(found) == 5
    assert found.digest() == images_of((images.numpy(), labels.tolist()), "train").digest()
    changed = images.clone()
    changed[0, 0, 0, 0] += 1
    others = [
        images_of(pair, "train").digest()
        for pair in (
            (changed, labels),
            (images, labels.flip(0)),
            (images.reshape(5, 1, 2, 8), labels),
        )
    ]
    assert len({found.digest(), *others}) == 4
    digests = found.image_digests()
    assert len(set(digests)) == 5
    assert part.image_digests() == [digests[3], digests[1]]
