import json

import optuna


def test_status_lists_studies_and_progress(runs, glora):
    code, out, _ = glora("status", "--runs", runs)
    assert code == 0
    for words in ("tiny", "finished", "12/12"):
        assert words in out
    (document,) = json.loads(glora("status", "--runs", runs, "--json")[1])
    assert f"{document['best']['value']:.3f}" in out


def test_status_studies_of_other_formats_are_named(runs, glora):
    storage = f"sqlite:///{runs}/studies.db"
    for version in (0, 99):
        study = optuna.create_study(study_name=f"of{version}", storage=storage)
        study.set_user_attr("glora:format", version)
    optuna.create_study(study_name="foreign", storage=storage)
    code, out, err = glora("status", "--runs", runs)
    assert code == 0, err
    for words in ("of format 0,", "of format 99,", "tiny"):
        assert words in out
    assert "foreign" not in out


def test_status_without_storage_is_one_line(folder, error):
    assert "no such file" in error("status")
