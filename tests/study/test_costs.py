import sys
import types

import pytest
import torch

from glora_automl.study import Cost, stage_costs, summarize
from glora_automl.workers import _meter as meters
from glora_automl.workers._meter import Meter
from tests.report.studies import add_stage, add_trials, made_study


def test_costs_are_summed_by_stage_and_worker():
    study, space = made_study(trials=5)
    add_trials(study, space, 1, peak_mib=700.0, gpu_mib=90.0, joules=2.5)  # of host-1
    add_trials(study, space, 2, peak_mib=600.0, joules=1.5)
    add_stage(study, "supernet", 12.5, n_images=600)
    add_stage(study, "control-BitFit", 2.0, worker="host-1", row={"n_images": 300})
    add_stage(study, "control-LoRA-r2", 3.0, worker="host-1", row={"n_images": 400})
    score = {"accuracy": 0.5, "loss": 1.0, "n_images": 150}
    add_stage(
        study,
        "selection",
        4.0,
        row={"n_images": 900},
        selection={"n_candidates": [1, 2, 3], "inherited": score, "finetuned": score},
    )
    add_stage(study, "test", 1.0, rows=[{"test": score}, {"test": None}, {"test": score}])
    assert stage_costs(study) == [
        Cost("supernet", "host-0", 1, 12.5, 600),
        Cost("search", "host-0", 4, 2.0, 600, 600.0, None, 1.5),
        Cost("search", "host-1", 4, 2.0, 600, 700.0, 90.0, 4.0),
        Cost("selection", "host-0", 1, 4.0, 300 + 4 * 150),
        Cost("baselines", "host-1", 2, 5.0, 700),
        Cost("test", "host-0", 1, 1.0, 300),
    ]
    summary = summarize(study)
    assert summary["stage_costs"][0]["n_images"] == 600
    assert summary["seconds"] == {
        "supernet": 12.5,
        "search": 4.0,
        "selection": 4.0,
        "baselines": 5.0,
        "test": 1.0,
    }


def test_attempts_of_other_settings_cost_nothing_here():
    study, _ = made_study(trials=0)
    add_stage(study, "supernet", 12.5)
    settings = study.user_attrs["glora:settings"]
    study.set_user_attr("glora:settings", {**settings, "key": "of other settings"})
    assert stage_costs(study) == []


def test_memory_is_counted_in_mebibytes():
    before = Meter(torch.device("cpu")).read()["peak_mib"]
    block = torch.ones(64 * 2**20, dtype=torch.uint8).repeat(4)
    after = Meter(torch.device("cpu")).read()["peak_mib"]
    assert block.sum() > 0
    assert 100 < before <= after < 100_000
    assert after > 256


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that tells of its memory and energy, as torch and NVML do; returns its counters."""
    counters = {"joules": 5.0, "peak": 0}

    def energy(handle):
        assert handle == "GPU-abc"
        return 1000 * counters["joules"]

    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(meters, "_counters", {})
    properties = types.SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: counters.update(peak=0)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: counters["peak"])
    return counters


def test_a_gpu_tells_of_memory_and_energy_since_the_meters_creation(gpu):
    gpu["peak"] = 9 * 2**30
    meter = Meter(torch.device("cuda"))
    gpu.update(joules=7.25, peak=3 * 2**20)
    found = meter.read()
    assert (found["gpu_mib"], found["joules"]) == (3.0, 2.25)


def test_a_gpu_that_does_not_tell_its_energy_still_tells_its_memory(gpu, monkeypatch):
    def fails():
        raise RuntimeError("no driver")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", fails)
    found = Meter(torch.device("cuda")).read()
    assert "joules" not in found
    assert found["gpu_mib"] == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpu():
    meter = Meter(torch.device("cuda"))
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        a = torch.tanh(a @ a)
    torch.cuda.synchronize()
    found = meter.read()
    assert found["gpu_mib"] >= 64
    assert found.get("joules", 1.0) > 0
