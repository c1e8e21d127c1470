import csv
import io
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import GLoRAError, TaskError
from glora_automl.tasks import CsvSettings, InputFormat, load_task
from tests.tasks.files import picture


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with 30 images, in a folder whose name needs quotes."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "a, b").mkdir()
    for number in range(30):
        picture(number % 3, number).save(folder / "a, b" / f"{number}.png")
    return folder


def load(folder, text, **changes):
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_task(CsvSettings(source="csv", path=str(path), **changes), 0)


def table(label=lambda n: "abc"[n % 3], split=None, header="image,label", end="\n"):
    """Return a table of all images."""
    lines = [header if split is None else f"{header},split"]
    for number in range(30):
        line = f'"a, b/{number}.png",{label(number)}'
        lines.append(line if split is None else f"{line},{split(number)}")
    return end.join([*lines, ""])


def names(part):
    return {os.path.basename(part.source.name(i)) for i in part.indices}


def test_load_csv_gives_stratified_sets_that_are_readable(images):
    task = load(images, table())
    assert task.name == "labels"
    assert task.classes == ("a", "b", "c")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [19, 5, 6]
    for name, label in zip(sorted(names(task.train)), range(3), strict=False):
        assert name.endswith(".png")
        assert label in task.train.labels
    target = InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    assert task.train.prepare(target, torch.device("cpu"))[0].shape == (19, 3, 8, 8)


def test_load_csv_as_excel_writes_it_is_read(images):
    plain = load(images, table())
    text = table(end="\r\n", header="Path,Class")
    assert load(images, b"\xef\xbb\xbf" + text.encode()).digest() == plain.digest()
    rows = list(csv.reader(io.StringIO(table(), newline="")))
    for delimiter in ";\t":
        out = io.StringIO(newline="")
        csv.writer(out, delimiter=delimiter).writerows(rows)
        assert load(images, out.getvalue()).digest() == plain.digest()


def test_load_csv_integer_labels_are_sorted_by_value(images):
    assert load(images, table(lambda n: (9, 10, -1)[n % 3])).classes == ("-1", "9", "10")
    assert load(images, table(lambda n: ("9", "10", "x")[n % 3])).classes == ("10", "9", "x")


def test_load_csv_split_column_is_used_in_any_spelling(images):
    task = load(images, table(split=lambda n: ("Training", "valid", "TEST")[n // 10]))
    for part, first in ((task.train, 0), (task.validation, 10), (task.test, 20)):
        assert names(part) == {f"{n}.png" for n in range(first, first + 10)}


def test_load_csv_columns_and_root_by_name(images, tmp_path):
    text = table(header="Where,Kind").replace("a, b/", "")
    root = str(images / "a, b")
    task = load(tmp_path, text, image="where", label="KIND", root=root)
    assert task.digest() == load(images, table()).digest()


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        (b"", {}, ["CSV", "it is empty"]),
        (b"\xff\xfei\0m\0", {}, ["no UTF-8"]),
        ("a,b\n1,2\n", {}, ["task.image", "one column"]),
        ("image,label\n1.png,a\n", {"label": "kind"}, ["task.label", "'kind'"]),
        ("image,label,label\n1.png,a,b\n", {}, ["task.label", "'label'. Rename one"]),
        ("image,label,Label\n1.png,a,b\n", {"label": "label"}, ["task.label", "Rename one"]),
        ("image,path,label\n1,1.png,a\n", {}, ["'image' and 'path'", "Set `task.image` to one"]),
        ("image,label,set,split\n1.png,a,2,train\n", {}, ["'set' and 'split'", "`task.split`"]),
        ("1.png,a\n2.png,b\n", {}, ["must have a header", "got the image '1.png'"]),
        ("1.PNG,a\n", {"image": "path"}, ["must have a header"]),
        ("image,label\n", {}, ["no line of a train image"]),
        ("image,label\n1.png\n", {}, ["Line 2", "2 cells", "got 1"]),
        ("image,label\n1.png,a,b\n", {}, ["Line 2", "got 3"]),
        ("image,label\n1.png,\n", {}, ["Line 2", "'label'"]),
        ("image,label,split\n1.png,a,third\n", {}, ["Line 2", "'third'"]),
        ("image,label,split\n1.png,a,test\n", {}, ["no line of a train image"]),
        ("image,label,split\n1.png,a,train\n2.png,b,test\n", {}, ["Line 3", "'b'"]),
        ("image,label\n1.png,a\n1.png,b\n", {}, ["Line 3", "one class", "'a'"]),
        ('image,label\n"1.png,a\n', {}, ["CSV", "unexpected end"]),
        ("image,label\n" + "1.png,a\n2.png,b\n" * 5, {}, ["unreadable", "No such file"]),
        ("image,label\n" + "x" * 200_000 + ",a\n", {}, ["CSV", "field larger"]),
        ("image,label\n" + "/dev/zero,a\n/dev/urandom,b\n" * 5, {},
         ["no regular file"]),
        ("image,label\n" + "".join(f"{n}.png,{'c' * 300}\n{n}x.png,d\n" for n in range(3)), {},
         ["UTF-8 text of at most 255"]),
    ],
)  # fmt: skip
def test_load_csv_wrong_table_raises_one_line(tmp_path, text, changes, words):
    with pytest.raises(TaskError) as caught:
        load(tmp_path, text, **changes)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 300
    for word in words:
        assert word in message


def test_load_csv_of_several_possible_columns_takes_the_one_that_is_set(images):
    text = table(header="path,label").replace("\n", ",0\n").replace("label,0", "label,image")
    with pytest.raises(TaskError, match="'image' and 'path'"):
        load(images, text)
    assert load(images, text, image="path").digest() == load(images, table()).digest()


@pytest.mark.parametrize("path", ["pipe.csv", "/dev/zero", "missing.csv", "x" * 5000, "a\0.csv"])
def test_load_csv_of_no_regular_file_raises_without_waiting(tmp_path, path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(TaskError, match="CSV format") as caught:
        load_task(CsvSettings(source="csv", path=os.path.join(tmp_path, path)), 0)
    assert len(str(caught.value)) <= 300


CELLS = st.one_of(
    st.sampled_from(["a, b/1.png", "a, b/2.png", "/dev/zero", "x", "1", "-2", "train", "test", ""]),
    st.text(max_size=12),
)


@given(
    st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=8),
    st.sampled_from(["image,label", "path;class;split", "image\tlabel", "", "\ufeffimage,label"]),
    st.binary(max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(max_examples=80, deadline=None)
def test_load_csv_any_bytes_give_a_task_or_a_short_error(images, rows, header, noise, end):
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator=end).writerows(rows)
    data = (header + end + out.getvalue()).encode("utf-8", "surrogatepass")
    try:
        task = load(images, data + noise, unreadable="skip")
    except GLoRAError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) <= 300  # noqa: PT017
    else:
        assert len(task.train)
