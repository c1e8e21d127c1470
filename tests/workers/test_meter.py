"""Memory and energy of a stage."""

import sys
import types

import pytest
import torch

from glora_automl.workers import _meter
from glora_automl.workers._meter import Meter


def test_meter_read_returns_mebibytes():
    before = Meter(torch.device("cpu")).read()["peak_mib"]
    block = torch.ones(64 * 2**20, dtype=torch.uint8).repeat(4)
    after = Meter(torch.device("cpu")).read()["peak_mib"]
    assert block.sum() > 0
    assert 100 < before <= after < 100_000
    assert after > 256


@pytest.fixture
def gpu(monkeypatch):
    """Counters of a GPU whose memory torch reports and whose energy NVML reports."""
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
    monkeypatch.setattr(_meter, "_counters", {})
    properties = types.SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: counters.update(peak=0)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: counters["peak"])
    return counters


def test_meter_of_a_gpu_reads_memory_and_energy_since_its_creation(gpu):
    gpu["peak"] = 9 * 2**30
    meter = Meter(torch.device("cuda"))
    gpu.update(joules=7.25, peak=3 * 2**20)
    usage = meter.read()
    assert (usage["gpu_mib"], usage["joules"]) == (3.0, 2.25)


def test_meter_of_a_gpu_without_energy_reads_memory(gpu, monkeypatch):
    def fail():
        raise RuntimeError("no driver")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", fail)
    usage = Meter(torch.device("cuda")).read()
    assert "joules" not in usage
    assert usage["gpu_mib"] == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_meter_of_a_real_gpu_reads_memory_and_energy():
    meter = Meter(torch.device("cuda"))
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        a = torch.tanh(a @ a)
    torch.cuda.synchronize()
    usage = meter.read()
    assert usage["gpu_mib"] >= 64
    assert usage.get("joules", 1.0) > 0
