"""Artifact stores: verified downloads, nothing half-written, S3."""

import errno
import shutil

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

from glora_automl.errors import CheckpointError, StorageError
from glora_automl.storages import default_artifacts, open_artifacts


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
    """Location in an S3 of this process, and its client."""
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
        import io

        artifacts._store.write(reference.id, io.BytesIO(content))


def test_what_is_uploaded_comes_back_and_is_listed(artifacts, study, file):
    reference = artifacts.upload(file, study)
    assert reference.size == 7000
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()
    (meta,) = get_all_artifact_meta(study)
    assert (meta.artifact_id, meta.filename) == (reference.id, file.name)


def test_what_is_only_stored_is_not_listed(artifacts, study, file):
    reference = artifacts.store(file)
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()
    assert get_all_artifact_meta(study) == []
    artifacts.remove(reference)
    artifacts.remove(reference)  # gone already, which is fine
    with pytest.raises(CheckpointError):
        open_artifacts(artifacts.location, cache=file.parent / "other").fetch(reference)


@pytest.mark.parametrize("content", [b"other", b"", None], ids=["altered", "empty", "missing"])
def test_what_is_not_what_it_was_is_refused(artifacts, study, file, content, tmp_path):
    reference = artifacts.upload(file, study)
    alter(artifacts, reference, content)
    with pytest.raises(CheckpointError) as caught:
        artifacts.fetch(reference)
    message = str(caught.value)
    assert "\n" not in message
    assert reference.id in message
    assert artifacts.location in message
    if content is not None:
        assert reference.sha256[:16] in message
    assert not list((tmp_path / "cache").glob("*.artifact"))
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_a_download_is_kept_by_its_digest_and_mended(s3, study, file, tmp_path):
    artifacts = open_artifacts(s3[0], cache=tmp_path / "cache")
    reference = artifacts.upload(file, study)
    path = artifacts.fetch(reference)
    assert path.parent == tmp_path / "cache"
    assert path.stem == reference.sha256
    path.write_bytes(b"rotten")
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()
    artifacts.remove(reference)
    assert artifacts.fetch(reference).read_bytes() == file.read_bytes()


def test_the_prefix_is_kept(s3, study, file, tmp_path):
    location, client = s3
    reference = open_artifacts(location, cache=tmp_path).upload(file, study)
    (entry,) = client.list_objects_v2(Bucket="bucket")["Contents"]
    assert entry["Key"] == f"some/where/{reference.id}"


def test_the_name_comes_after_the_bytes(tmp_path, study, file, monkeypatch):
    """A worker that is killed while it uploads leaves no name of what is not there."""
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")
    seen = []

    def write(self, artifact_id, content):
        seen.append(get_all_artifact_meta(study))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystemArtifactStore, "write", write)
    with pytest.raises(StorageError, match=r"No space left on device; make room"):
        artifacts.upload(file, study)
    assert seen == [[]]
    assert get_all_artifact_meta(study) == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path, study, file, monkeypatch):
    artifacts = open_artifacts(str(tmp_path / "store"), cache=tmp_path / "cache")

    def copy(source, target):
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(StorageError, match="No space left"):
        artifacts.upload(file, study)
    assert list((tmp_path / "store").iterdir()) == []


def test_a_reference_reaches_nothing_outside_of_the_folder(tmp_path, study, file):
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
def test_a_wrong_location_is_one_line(s3, location, words, tmp_path):
    with pytest.raises(StorageError, match=words) as caught:
        open_artifacts(location, cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert "--artifacts" in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path, file):
    with pytest.raises(StorageError, match="--artifacts"):
        open_artifacts(str(file), cache=tmp_path)


def test_the_default_is_in_the_runs_folder(tmp_path):
    assert default_artifacts(tmp_path) == f"{tmp_path.as_posix()}/artifacts"
