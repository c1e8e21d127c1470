"""The Hugging Face hub, asked once before a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, get_session

from glora_automl._messages import one_line, short
from glora_automl.backbones._names import PREFIX
from glora_automl.backbones._settings import BackboneSettings
from glora_automl.errors import TaskError

__all__ = ["check_hub"]

TIMEOUT = 10
"""Seconds to wait for the hub."""


def check_hub(settings: BackboneSettings) -> None:
    """Check that the hub answers, unless it has no weights of a model or they are cached.

    The hub's own client tries for a minute and a half, and prints each try.

    Raises:
        TaskError: If it does not answer.
    """
    repository = _repository(settings)
    if repository is None or constants.HF_HUB_OFFLINE:
        return
    if (Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}").is_dir():
        return
    session: Any = get_session()
    try:
        session.head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # versions of the client have other exceptions
        raise TaskError(
            f"The hub must answer to download {short(settings.model)}, got: {one_line(error)}. Set "
            "`backbone.checkpoint = FILE` for local weights, or try again."
        ) from None


def _repository(settings: BackboneSettings) -> str | None:
    """Return the repository of a model's weights on the hub, if it has one."""
    if not settings.is_remote:
        return None
    if settings.model.startswith(PREFIX):
        return settings.model.removeprefix(PREFIX)
    if settings.model.startswith("hf-hub:"):
        return settings.model.removeprefix("hf-hub:").partition("@")[0]
    config: Any = timm.models.get_pretrained_cfg(settings.model)
    return None if config is None else config.hf_hub_id
