import numpy as np
import pytest
import torch

from glora_automl.errors import TaskError
from glora_automl.tasks import DomainsSettings, InputFormat, NpzSettings, load_task
from tests.tasks.files import write_classes

TARGET = InputFormat((3, 20, 24), (0.5,) * 3, (0.5,) * 3)
CLASSES = ("ant", "bee", "cat")


def counts(number, classes=CLASSES):
    return dict.fromkeys(classes, number)


@pytest.fixture
def root(tmp_path):
    """A training domain, one with fewer classes, and one with numbered class folders."""
    folder = tmp_path / "many"
    write_classes(folder / "photo/train", counts(10))
    write_classes(folder / "photo/val", counts(4), first=20)
    write_classes(folder / "art", counts(3, ("ant", "cat")), first=30)
    write_classes(folder / "v2", counts(2), first=40)
    for number, name in enumerate(CLASSES):
        (folder / "v2" / name).rename(folder / "v2" / str(number))
    write_classes(folder / "sketch/train", counts(5), first=50)
    write_classes(folder / "sketch/test", counts(1), first=60)
    return folder


def load(root, **changes):
    return load_task(DomainsSettings(source="domains", path=str(root), **changes), 0)


def test_load_domains_other_domains_are_test_sets(root):
    task = load(root, train="photo", shots=2)
    assert task.classes == CLASSES
    assert [len(part) for part in (task.train, task.validation, task.test)] == [6, 6, 12]
    assert {name: len(domain.images) for name, domain in task.domains.items()} == {
        "art": 6,
        "sketch": 3,
        "v2": 6,
    }
    assert list(load(root, train="photo", test=("v2", "art")).domains) == ["v2", "art"]


def test_load_domains_missing_classes_limit_the_predictions(root):
    domains = load(root, train="photo").domains
    assert domains["art"].among.tolist() == [0, 2]
    assert sorted(set(domains["art"].images.labels.tolist())) == [0, 2]
    assert domains["v2"].among is None
    assert domains["sketch"].among is None


def test_load_domains_numbered_folders_are_the_classes_in_order(root):
    images = load(root, train="photo").domains["v2"].images
    for label, index in zip(images.labels.tolist(), images.indices, strict=True):
        assert f"/v2/{label}/" in images.source.name(index)


def test_load_domains_digest_depends_on_the_domains(root):
    whole = load(root, train="photo", test=("v2", "art"))
    assert load(root, train="photo", test=("v2",)).digest() != whole.digest()
    assert load(root, train="photo", test=("v2", "art")).digest() == whole.digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": "fotos"}, ["task.train", "got 'fotos'", "Did you mean 'photo'?"]),
        ({"train": "photo", "test": ("arts",)}, ["task.test", "got 'arts'", "'art'"]),
        ({"train": "photo", "test": ("photo",)}, ["other domains than 'photo'"]),
        ({"train": "photo", "test": ("art", "art")}, ["each once"]),
        ({"train": "art", "test": ("photo",)}, ["one of the 2 train classes", "'bee'"]),
    ],
)
def test_load_domains_wrong_settings_raise_one_line(root, changes, words):
    with pytest.raises(TaskError) as caught:
        load(root, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    found = {
        "domain_names": np.array(["photo", "art", "sketch"]),
        "class_names": np.array(["a", "b"]),
    }
    for split, count in (("train", 60), ("test", 30)):
        found[f"x_{split}"] = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
        found[f"y_{split}"] = np.arange(count) % 2
        found[f"domain_{split}"] = np.arange(count) // 2 % 3
    return found


def load_npz(tmp_path, arrays, **changes):
    np.savez(tmp_path / "a.npz", **arrays)
    return load_task(NpzSettings(source="npz", path=str(tmp_path / "a.npz"), **changes), 0)


def test_load_npz_with_domain_makes_test_sets_of_the_others(tmp_path, arrays):
    task = load_npz(tmp_path, arrays, domain="art", n_labelled=10)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [8, 2, 10]
    assert {name: len(domain.images) for name, domain in task.domains.items()} == {
        "photo": 30,
        "sketch": 30,
    }
    pixels = torch.from_numpy(arrays["x_test"][arrays["domain_test"] == 1]).permute(0, 3, 1, 2)
    assert torch.equal(task.test.images, pixels)
    both = np.concatenate([arrays[f"x_{s}"][arrays[f"domain_{s}"] == 2] for s in ("train", "test")])
    sketch = task.domains["sketch"].images
    assert torch.equal(sketch.images, torch.from_numpy(both).permute(0, 3, 1, 2))
    assert not load_npz(tmp_path, arrays, n_labelled=10).domains


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"domain_train": None}, ["'domain_train'"]),
        ({"domain_names": np.array(["photo", "art"])}, ["domain_train", "from 0 to 1", "got 2"]),
        ({"domain_names": np.array(["photo", "arts", "x"])}, ["got 'art'", "'arts'"]),
        ({"domain_train": np.zeros(60, int)}, ["a domain with train images", "got 'art'"]),
    ],
)
def test_load_npz_wrong_domain_arrays_raise_one_line(tmp_path, arrays, changes, words):
    changed = {key: value for key, value in (arrays | changes).items() if value is not None}
    with pytest.raises(TaskError) as caught:
        load_npz(tmp_path, changed, domain="art")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
