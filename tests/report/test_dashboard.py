import json
import socket
import threading
import urllib.error
import urllib.request
from io import BytesIO, StringIO

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from optuna_dashboard import _app

from glora_automl.commands import random_study_name
from glora_automl.errors import ReportError
from glora_automl.report import dashboard_app, open_server
from glora_automl.storages import open_artifacts, open_storage
from tests.report.studies import add_stage, add_trials, begin_study, made_space, made_study


@pytest.fixture
def storage(tmp_path):
    opened = open_storage(f"sqlite:///{tmp_path}/a.db")
    yield opened
    opened.engine.dispose()


def request(app, path, method="GET", body=None):
    """Return status and JSON of a response of the application."""
    status = []
    text = json.dumps(body).encode() if body is not None else b""
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(text)),
        "wsgi.input": BytesIO(text),
        "wsgi.errors": StringIO(),
        "HTTP_ACCEPT_ENCODING": "",
        "HTTP_HOST": "127.0.0.1:8080",
    }
    body = b"".join(app(environ, lambda line, headers, *rest: status.append(line)))
    try:
        return status[0][:3], json.loads(body or b"null")
    except ValueError:
        return status[0][:3], body


def detail(app, study):
    status, found = request(app, f"/api/studies/{study._study_id}")
    assert status == "200", found
    return found


def params(trial):
    return {p["name"]: int(p["param_external_value"]) for p in trial["params"]}


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("block", ["blocks.0", "blocks.1"]),
        ("kind", ["attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2"]),
        ("tensor", ["A", "B", "C", "D", "E"]),
        ("layer", None),
    ],
)
def test_study_is_shown_with_counts_per_group(storage, by, names):
    study, space = made_study(storage)
    found = detail(dashboard_app(storage, by=by), study)
    groups = [entry["name"] for entry in found["union_search_space"]]
    assert groups == (names or sorted(space.shapes))
    assert found["intersection_search_space"] == found["union_search_space"]
    for trial, shown in zip(study.trials, found["trials"], strict=True):
        assert sum(params(shown).values()) == trial.user_attrs["trainable_params"]
        assert shown["constraints"] == list(trial.constraints.values())
    (best,) = found["best_trials"]
    assert best["number"] == study.best_trial.number


def test_infeasible_trials_are_marked_and_never_best(storage):
    study, space = made_study(storage)
    add_trials(study, space, 1, over=5, validation_accuracy=1.0)
    study.add_trial(
        create_trial(
            value=9.0,
            params=study.trials[0].params,
            distributions=space.distributions(),
            constraints={"trainable_params": 7.0},
        )
    )
    found = detail(dashboard_app(storage), study)
    assert [trial["constraints"] for trial in found["trials"][-2:]] == [[5.0], [7.0]]
    assert found["best_trials"][0]["number"] == study.best_trial.number < 24


def test_dashboards_of_one_process_keep_their_own_importances(storage):
    study, space = begin_study(storage), made_space()
    add_trials(study, space, 12)
    names = []
    for by in ("block", "tensor", "block"):
        _, found = request(
            dashboard_app(storage, by=by), f"/api/studies/{study._study_id}/param_importances"
        )
        names.append({entry["name"] for entry in found["param_importances"][0]})
    assert names[0] == names[2] == {"blocks.0", "blocks.1"}
    assert names[1] <= {"A", "B", "C", "D", "E"}


def test_pareto_front_of_several_objectives_has_feasible_trials_only(storage):
    study = optuna.create_study(directions=["maximize", "minimize"], storage=storage)
    for values, over in [((0.9, 5), 1.0), ((0.8, 6), 0.0), ((0.7, 4), -1.0), ((0.6, 7), 0.0)]:
        study.add_trial(create_trial(values=values, constraints={"trainable_params": over}))
    before = _app.get_pareto_front_trials
    found = detail(dashboard_app(storage), study)
    assert [trial["number"] for trial in found["best_trials"]] == [1, 2]
    # Other dashboards of this process keep their own front.
    assert _app.get_pareto_front_trials is before
    assert {trial.number for trial in study.best_trials} == {1, 2}


def test_running_failed_and_pruned_trials_are_shown(storage):
    study, space = made_study(storage, trials=2)
    for state in (TrialState.RUNNING, TrialState.FAIL, TrialState.WAITING):
        study.add_trial(create_trial(state=state, user_attrs={"worker": "w"}))
    pruned = add_trials(study, space, 1, state=TrialState.PRUNED)
    found = detail(dashboard_app(storage), study)
    states = [trial["state"] for trial in found["trials"]]
    assert states == ["Complete"] * 2 + ["Running", "Fail", "Waiting", "Pruned"]
    assert sum(params(found["trials"][-1]).values()) == pruned[0].user_attrs["trainable_params"]
    names = [entry["name"] for entry in found["intersection_search_space"]]
    assert names == ["blocks.0", "blocks.1"]


@pytest.mark.parametrize("trials", ["none", "one", "failed", "infeasible", "constant", "nan"])
def test_study_with_few_usable_trials_has_a_page(storage, trials):
    study = begin_study(storage)
    space = made_space()
    options = {
        "none": {"count": 0},
        "one": {"count": 1},
        "failed": {"count": 3, "state": TrialState.FAIL},
        "infeasible": {"count": 3, "over": 4},
        "constant": {"count": 3, "seed": 1},
        "nan": {"count": 3, "validation_loss": float("nan")},
    }[trials]
    add_trials(study, space, **options)
    app = dashboard_app(storage)
    found = detail(app, study)
    assert len(found["trials"]) == options["count"]
    assert len(found["best_trials"]) == (trials not in ("none", "failed"))
    status, importance = request(app, f"/api/studies/{study._study_id}/param_importances")
    assert status == "200", importance
    assert request(app, f"/csv/{study._study_id}")[0] == "200"


def test_study_list_hides_stages_and_random_search_only(storage):
    study, _ = made_study(storage)
    add_stage(study, "supernet", 3.0)
    key = study.user_attrs["glora:settings"]["key"]
    for name in ("other", "other/stages", "made/other", random_study_name("made", key)):
        optuna.create_study(study_name=name, storage=storage)
    _, found = request(dashboard_app(storage), "/api/studies")
    names = [summary["study_name"] for summary in found["study_summaries"]]
    assert names == ["made", "other", "other/stages", "made/other"]
    attributes = {a["key"] for a in found["study_summaries"][0]["user_attrs"]}
    assert {"recipe", "budget"} <= attributes
    assert not any(key.startswith("glora:") for key in attributes)


@pytest.mark.parametrize("value", [None, [], {}, {"key": 3}])
def test_study_list_with_an_altered_study_shows_the_others(storage, value):
    made_study(storage)
    altered = begin_study(storage, "altered")
    add_stage(altered, "supernet", 3.0)
    altered.set_user_attr("glora:settings", value)
    status, found = request(dashboard_app(storage), "/api/studies")
    assert status == "200"
    names = [summary["study_name"] for summary in found["study_summaries"]]
    assert names == ["made", "altered"]


def test_foreign_study_is_shown_as_in_optuna_dashboard(storage):
    import optuna_dashboard

    study = optuna.create_study(study_name="other", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)
    for path in ("/api/studies", f"/api/studies/{study._study_id}"):
        ours = request(dashboard_app(storage), path)
        assert ours == request(optuna_dashboard.wsgi(storage), path)


def test_new_trials_appear(storage, monkeypatch):
    from optuna_dashboard import _storage

    class Later(_storage.datetime):
        shift = _storage.timedelta()

        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + cls.shift

    monkeypatch.setattr(_storage, "datetime", Later)  # its cache expires after some seconds
    study, space = made_study(storage, trials=3)
    app = dashboard_app(storage)
    assert len(detail(app, study)["trials"]) == 3
    add_trials(study, space, 2)
    Later.shift = _storage.timedelta(seconds=60)
    _, found = request(app, f"/api/studies/{study._study_id}")
    assert len(found["trials"]) == 5
    assert found["best_trials"][0]["number"] == study.best_trial.number


REQUESTS = [
    ("PUT", "/api/studies/{id}/note", {"version": 1, "body": "hello"}),
    ("POST", "/api/trials/{trial}/user-attrs", {"user_attrs": {"a": 1}}),
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("POST", "/api/studies/{id}/rename", {"study_name": "new"}),
    ("DELETE", "/api/studies/{id}", {}),
    ("POST", "/api/trials/{trial}/tell", {"state": "Complete", "values": [1.0]}),
    ("DELETE", "/api/artifacts/{id}/abc", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
@pytest.mark.parametrize("write", [False, True])
def test_request_is_refused_unless_write_allows_it(storage, method, path, body, write):
    study, _ = made_study(storage, trials=2)
    running = study.ask()
    trials, attributes = study.trials, storage.get_study_system_attrs(study._study_id)
    path = path.format(id=study._study_id, trial=running._trial_id)
    status, answer = request(dashboard_app(storage, write=write), path, method, body)
    allowed = write and ("note" in path or "user-attrs" in path)
    assert status == ("204" if allowed else "403")
    if not allowed:
        assert "`write`" in answer["reason"] or write
        assert study.trials == trials
        assert storage.get_study_system_attrs(study._study_id) == attributes
        assert optuna.get_all_study_names(storage) == ["made"]


def test_note_is_written_into_the_study(storage):
    study, _ = made_study(storage, trials=1)
    app = dashboard_app(storage, write=True)
    request(app, f"/api/studies/{study._study_id}/note", "PUT", {"version": 1, "body": "hello"})
    assert detail(app, study)["note"]["body"] == "hello"


def test_artifacts_come_from_the_stores_of_the_studies(storage, tmp_path):
    def open_store(location):
        return open_artifacts(location, cache=tmp_path / "cache", create=False)

    references = {}
    for name in ("one", "two"):
        study = begin_study(storage, name)
        store = open_artifacts(str(tmp_path / name), cache=tmp_path / "cache")
        settings = study.user_attrs["glora:settings"]
        study.set_user_attr("glora:settings", {**settings, "artifacts": store.location})
        (tmp_path / "a.txt").write_text(name)
        references[study._study_id] = (name, store.upload(tmp_path / "a.txt", study).id)
    missing = begin_study(storage, "missing").user_attrs["glora:settings"]["artifacts"]
    assert missing == "runs/artifacts"
    for options in ({}, {"location": str(tmp_path / "one")}):
        app = dashboard_app(storage, artifacts=open_store, **options)
        for study_id, (name, artifact_id) in references.items():
            status, content = request(app, f"/artifacts/{study_id}/{artifact_id}")
            if not options or name == "one":
                assert (status, content) == ("200", name.encode())
            else:
                assert status == "500"


def test_server_answers_while_another_connection_is_open(storage):
    study, _ = made_study(storage)
    with open_server(dashboard_app(storage), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        # A browser that connects and sends nothing must not block others.
        with socket.create_connection(server.server_address[:2]):
            path = f"{server.url}api/studies/{study._study_id}"
            with urllib.request.urlopen(path, timeout=20) as response:
                assert len(json.load(response)["trials"]) == 24
        deletion = urllib.request.Request(path, method="DELETE")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(deletion, timeout=20)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", "taken", "Address already in use"),
        ("127.0.0.1", 99999, "port must be 0-65535"),
        ("192.0.2.7", 0, "another `port` or `host`"),
        ("no.such.host.invalid", 0, "another `port` or `host`"),
    ],
)
def test_open_server_at_an_unusable_address_raises_one_line(host, port, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if port == "taken" else port
        with pytest.raises(ReportError, match=words) as caught:
            open_server(lambda environ, start: [], host, port)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(
        f"`host` and `port` must be a free address of this machine, got '{host}:{port}'"
    )
