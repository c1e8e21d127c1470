"""The hub before a download."""

import socket
import time

import pytest

from glora_automl.backbones import BackboneSettings
from glora_automl.backbones._hub import check_hub
from glora_automl.errors import TaskError

NAME = "vit_tiny_patch16_224.augreg_in21k"


@pytest.fixture
def refusing(monkeypatch, tmp_path):
    """A hub whose port nobody listens at, and an empty cache."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.mark.parametrize("model", [NAME, "transformers:facebook/dinov2-small", "hf-hub:me/mine"])
def test_check_hub_that_refuses_names_the_checkpoint_at_once(refusing, model, capfd):
    begin = time.monotonic()
    with pytest.raises(TaskError, match=r"The hub must answer .*`backbone\.checkpoint = FILE`"):
        check_hub(BackboneSettings(model=model, pretrained=True))
    assert time.monotonic() - begin < 30  # the hub's client alone takes 92 s
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "settings",
    [{"model": NAME}, {"model": "test_vit", "checkpoint": "a.safetensors"}],
    ids=["random", "checkpoint"],
)
def test_check_hub_of_weights_from_elsewhere_asks_nobody(refusing, settings):
    check_hub(BackboneSettings(**settings))


def test_check_hub_of_cached_weights_asks_nobody(refusing):
    (refusing / f"models--timm--{NAME}").mkdir()
    check_hub(BackboneSettings(model=NAME, pretrained=True))
