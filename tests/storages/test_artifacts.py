"""Artifact stores: verified downloads, interrupted uploads, S3."""

import errno
import io
import json
import os
import shutil
import sys

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.artifacts import get_all_artifact_meta

from glora_automl.errors import CheckpointError, StorageError
from glora_automl.storages import ArtifactReference, default_artifacts, open_artifacts
from tests.refusals import TEXTS, refusal


@pytest.fixture
def study(tmp_path):
    return optuna.create_study(storage=f"sqlite:///{tmp_path}/a.db")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "supernet.safetensors"
    path.write_bytes(b"weights" * 1000)
    return path


@pytest.fixture
def s3(monkeypatch):
    """A location in a mock S3, and its client."""
    moto = pytest.importorskip("moto", reason="needs moto[s3]")
    boto3 = pytest.importorskip("boto3", reason="needs boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield "s3://bucket/some/where", client


@pytest.fixture(params=["folder", "s3"])
def artifacts(request, tmp_path):
    if request.param == "folder":
        location = str(tmp_path / "store")
    else:
        location = request.getfixturevalue("s3")[0]
    return open_artifacts(location, cache=tmp_path / "cache")


def alter(artifacts, reference, content):
    artifacts.remove(reference)
    if content is not None:
        artifacts._store.write(reference.id, io.BytesIO(content))


def test_upload_lists_and_fetch_returns_file(artifacts, study, file):
    reference = artifacts.upload(file, study)
    assert reference.size == 7000
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()
    (meta,) = get_all_artifact_meta(study)
    assert (meta.artifact_id, meta.filename) == (reference.id, file.name)


def test_open_artifacts_in_s3_without_boto3_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    expected = r"boto3 must be installed for `artifacts` = 's3://b', got: .*automl\[s3\]"
    with pytest.raises(StorageError, match=expected):
        open_artifacts("s3://b", cache=tmp_path)


def test_store_does_not_list_file(artifacts, study, file):
    reference = artifacts.store(file)
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()
    assert get_all_artifact_meta(study) == []
    artifacts.remove(reference)
    artifacts.remove(reference)  # without an error
    with pytest.raises(CheckpointError):
        open_artifacts(artifacts.location, cache=file.parent / "other").fetch(reference)


@pytest.mark.parametrize("content", [b"other", b"", None], ids=["altered", "empty", "missing"])
def test_fetch_of_altered_file_raises_one_line(artifacts, study, file, content, tmp_path):
    reference = artifacts.upload(file, study)
    alter(artifacts, reference, content)
    with pytest.raises(CheckpointError) as caught:
        artifacts.fetch(reference)
    message = str(caught.value)
    assert "\n" not in message
    assert reference.id in message
    assert artifacts.location in message
    if content is None:
        assert "Set `artifacts` to the store of the study." in message
    else:
        assert reference.sha256[:16] in message
        assert "altered or cut short. Restore it" in message
    assert not list((tmp_path / "cache").glob("*.artifact"))
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_fetch_of_altered_download_repeats_it(s3, study, file, tmp_path):
    artifacts = open_artifacts(s3[0], cache=tmp_path / "cache")
    reference = artifacts.upload(file, study)
    path = artifacts.fetch(reference)
    assert path.parent == tmp_path / "cache"
    assert path.stem == reference.sha256
    path.write_bytes(b"altered")
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()
    artifacts.remove(reference)
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()


def test_upload_to_s3_keeps_prefix(s3, study, file, tmp_path):
    location, client = s3
    reference = open_artifacts(location, cache=tmp_path).upload(file, study)
    (entry,) = client.list_objects_v2(Bucket="bucket")["Contents"]
    assert entry["Key"] == f"some/where/{reference.id}"


def test_upload_that_fails_lists_nothing(tmp_path, study, file, monkeypatch):
    """A worker that is killed during an upload leaves no metadata of a missing file."""
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")
    listed = []

    def write(self, artifact_id, content):
        listed.append(get_all_artifact_meta(study))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.backend.__class__, "write", write)
    with pytest.raises(
        StorageError,
        match=r"`artifacts` must be writable, .*No space left on device\. Free disk space",
    ):
        artifacts.upload(file, study)
    assert listed == [[]]
    assert get_all_artifact_meta(study) == []


def test_upload_to_full_disk_leaves_no_file(tmp_path, study, file, monkeypatch):
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")

    def copy(source, target):
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(StorageError, match="No space left"):
        artifacts.upload(file, study)
    assert list((tmp_path / "store").iterdir()) == []


def test_upload_that_is_killed_leaves_no_part_of_a_file(tmp_path, study, file):
    store = tmp_path / "store"

    def die(source, target, *length):
        target.write(source.read(100))
        target.flush()
        os._exit(9)

    child = os.fork()
    if child == 0:
        shutil.copyfileobj = die
        open_artifacts(str(store), cache=tmp_path / "cache").upload(file, study)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (left,) = store.iterdir()
    assert left.name.endswith(".glora.tmp")
    os.utime(left, (1, 1))
    open_artifacts(str(store), cache=tmp_path / "cache")
    assert list(store.iterdir()) == []


def test_fetch_outside_folder_raises(tmp_path, study, file):
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")
    reference = artifacts.upload(file, study)
    with pytest.raises(CheckpointError, match="missing"):
        artifacts.fetch(reference._replace(id="../supernet.safetensors"))


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("s3://nobucket/x", "nobucket"),
        ("s3://", "s3://"),
        ("gs://bucket/x", "folder or s3://bucket/prefix"),
    ],
)
def test_open_artifacts_with_wrong_location_raises_one_line(s3, location, words, tmp_path):
    with pytest.raises(StorageError, match=words) as caught:
        open_artifacts(location, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("`artifacts` must be ")
    assert "another `artifacts`" in str(caught.value)


def test_open_artifacts_on_file_raises(tmp_path, file):
    with pytest.raises(StorageError, match="Choose another `artifacts`"):
        open_artifacts(str(file), cache=tmp_path)


def test_default_artifacts_is_in_runs_folder(tmp_path):
    assert default_artifacts(tmp_path) == f"{tmp_path.as_posix()}/artifacts"


def test_open_artifacts_without_create_in_missing_folder_raises(tmp_path):
    with pytest.raises(StorageError, match=r"must be a folder of this machine.*Set `artifacts`"):
        open_artifacts(str(tmp_path / "missing"), cache=tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_find_returns_the_file_that_was_published(artifacts, file, tmp_path):
    assert artifacts.find("some-name") is None
    artifacts.publish("some-name", file)
    assert artifacts.find("some-name").read_bytes() == file.read_bytes()
    assert artifacts.find("other-name") is None
    again = open_artifacts(artifacts.location, cache=tmp_path / "other")
    assert again.find("some-name").read_bytes() == file.read_bytes()


def test_find_returns_the_last_of_several_files(artifacts, file):
    artifacts.publish("some-name", file)
    file.write_bytes(b"newer")
    artifacts.publish("some-name", file)
    assert artifacts.find("some-name").read_bytes() == b"newer"


def test_publish_lists_nothing(artifacts, study, file):
    artifacts.publish("some-name", file)
    assert get_all_artifact_meta(study) == []


def _published(artifacts):
    with artifacts.backend.open_reader("some-name.json") as reader:
        return json.loads(reader.read())


@pytest.mark.parametrize("content", [b"other", None], ids=["altered", "missing"])
def test_find_of_altered_file_raises_one_line(artifacts, file, content, tmp_path):
    artifacts.publish("some-name", file)
    alter(artifacts, ArtifactReference(**_published(artifacts)), content)
    with pytest.raises(CheckpointError) as caught:
        artifacts.find("some-name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": 1}'])
def test_find_of_an_altered_name_raises_one_line(artifacts, file, content):
    artifacts.publish("some-name", file)
    artifacts.backend.write("some-name.json", io.BytesIO(content))
    with pytest.raises(CheckpointError, match=r"'some-name.json'.*Delete it") as caught:
        artifacts.find("some-name")
    assert "\n" not in str(caught.value)


def test_publish_to_full_disk_raises_and_keeps_the_earlier_file(tmp_path, file, monkeypatch):
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")
    artifacts.publish("some-name", file)
    expected = file.read_bytes()
    file.write_bytes(b"newer")

    def copy(source, target, *length):
        target.write(source.read(3))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", copy)
        with pytest.raises(StorageError, match="No space left"):
            artifacts.publish("some-name", file)
    assert artifacts.find("some-name").read_bytes() == expected
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_publish_that_is_killed_while_it_writes_the_name_keeps_the_earlier_one(
    tmp_path, file, monkeypatch
):
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")
    artifacts.publish("some-name", file)
    expected = file.read_bytes()
    file.write_bytes(b"newer")

    class Killed(BaseException):
        pass

    copy, n_left = shutil.copyfileobj, 1

    def torn(source, target, *length):
        nonlocal n_left
        if n_left == 0:
            target.write(source.read(3))
            raise Killed
        n_left -= 1  # the file itself, before its name
        copy(source, target, *length)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", torn)
        with pytest.raises(Killed):
            artifacts.publish("some-name", file)
    assert artifacts.find("some-name").read_bytes() == expected


def test_has_mark_is_true_for_a_copy_of_the_store_alone(artifacts, file, tmp_path):
    artifacts.mark("0123")
    assert artifacts.has_mark("0123")
    assert not artifacts.has_mark("4567")
    again = open_artifacts(artifacts.location, cache=tmp_path / "other")
    assert again.has_mark("0123")
    other = open_artifacts(str(tmp_path / "another"), cache=tmp_path / "cache")
    other.store(file)
    assert not other.has_mark("0123")


def test_publish_to_s3_keeps_prefix(s3, file, tmp_path):
    location, client = s3
    open_artifacts(location, cache=tmp_path).publish("some-name", file)
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="bucket")["Contents"]}
    assert "some/where/some-name.json" in keys
    assert len(keys) == 2


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    location=st.builds(
        "{}{}".format, st.sampled_from(["", "s3://", "s3://bucket/", "gs://", "x/"]), TEXTS
    )
)
def test_open_artifacts_any_location_is_opened_or_refused_in_one_line(s3, tmp_path, location):
    refusal(open_artifacts, location, cache=tmp_path / "cache", create=False)
