import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks import images_of
from glora_automl.tasks._arrays import ArraysSettings, load_arrays
from glora_automl.tasks._csv import CsvSettings, load_csv
from glora_automl.tasks._npz import NpzSettings, load_npz
from glora_automl.tasks._targets import MAX_NUMBERS, check_targets

TARGETS = np.random.default_rng(0).normal(size=60)
PIXELS = np.zeros((60, 8, 8), dtype=np.uint8)


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.zeros(3, 8, 8), TARGETS[index]


def test_arrays_with_numbers_as_labels_raise():
    with pytest.raises(TaskError, match=r"must be classes, got 60 .* regression"):
        load_arrays(ArraysSettings(source="arrays"), 0, (PIXELS, TARGETS))


@pytest.mark.parametrize("dtype", [np.float64, str])
def test_npz_with_numbers_as_labels_raises(dtype, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=PIXELS, y_train=TARGETS.astype(dtype))
    settings = NpzSettings(source="npz", path=str(tmp_path / "a.npz"))
    with pytest.raises(TaskError, match=r"y_train .* must be classes, got 60 .* regression"):
        load_npz(settings, 0)


def test_csv_with_numbers_as_labels_raises_before_it_reads_images(tmp_path):
    lines = [f"{i}.png,{t},{'train' if i < 40 else 'test'}" for i, t in enumerate(TARGETS)]
    (tmp_path / "a.csv").write_text("\n".join(["image,label,split", *lines]), encoding="utf-8")
    with pytest.raises(TaskError, match=r"must be classes, got 40 .* regression"):
        load_csv(CsvSettings(source="csv", path=str(tmp_path / "a.csv")), 0)


@pytest.mark.parametrize(
    "data", [(torch.zeros(60, 3, 8, 8), TARGETS), Items()], ids=["pair", "data set"]
)
def test_images_of_numbers_as_labels_raise(data):
    with pytest.raises(TaskError, match=r"train must be classes, got 60 .* regression"):
        images_of(data, "train")


def test_check_targets_takes_few_texts_of_numbers_for_classes():
    names = np.array([f"{n / 2}" for n in range(MAX_NUMBERS)])
    check_targets("labels", names)
    with pytest.raises(TaskError):
        check_targets("labels", np.append(names, "0.25"))


@given(st.lists(st.one_of(st.text(max_size=4), st.integers().map(str)), min_size=1, max_size=40))
def test_check_targets_of_texts_without_fractions_passes(labels):
    whole = [text for text in labels if "." not in text and not text.strip(" -+").isalpha()]
    check_targets("labels", np.array([*whole, "ant"]))


@given(st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=40))
def test_check_targets_of_whole_numbers_passes(labels):
    for dtype in (np.int64, np.float64, str):
        check_targets("labels", np.array(labels, dtype=dtype))
