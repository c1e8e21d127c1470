"""The end of a study: its one look at the test images, and the adapter as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from glora_automl._files import file_lock, make_folder, remove_torn
from glora_automl.pipeline._baselines import load_adapted
from glora_automl.pipeline._run import Run
from glora_automl.study import Row, stage_seconds
from glora_automl.training import Score, evaluate, save_checkpoint
from glora_automl.workers import Claim

__all__ = ["final_test", "keep_winner"]


def final_test(
    run: Run,
    outcomes: Mapping[str, dict[str, Any]],
    parts: Mapping[str, tuple[str, ...]],
    claim: Claim,
) -> dict[str, Any]:
    """Look at the test images, if there are any, with all arms at once.

    Args:
        run: The study.
        outcomes: Outcomes of stages that have trained an arm.
        parts: For those that shared their work with others, the stages whose seconds are theirs.
        claim: The stage that this is.
    """
    spent = stage_seconds(run.study, run.stages.study)
    models = {stage: load_adapted(run, outcome) for stage, outcome in outcomes.items()}
    images, labels = run.setup.test() if len(run.setup.task.test) else (None, None)
    domains = _test_domains(run, models)
    rows = []
    for stage, model in models.items():
        row = Row.from_json(outcomes[stage]["row"])
        if stage in parts:
            row = replace(row, seconds=round(sum(spent[part] for part in parts[stage]), 2))
        if model is not None:
            score = None
            if images is not None and labels is not None:
                score = evaluate(model, images, labels)
            row = replace(row, test=score, domains=domains[stage])
        rows.append(row.to_json())
    return {"rows": rows}


def _test_domains(run: Run, models: Mapping[str, nn.Module | None]) -> dict[str, dict[str, Score]]:
    """Scores of all arms on the test sets of other domains, which are read one after the other."""
    scores: dict[str, dict[str, Score]] = {stage: {} for stage in models}
    for name, (images, labels), among in run.setup.domains():
        for stage, model in models.items():
            if model is not None:
                scores[stage][name] = evaluate(model, images, labels, among=among)
    return scores


def keep_winner(run: Run, name: str, outcome: dict[str, Any]) -> nn.Module:
    """The model of an arm; its adapter is also put into the study's folder on this machine."""
    with _alone(run.setup.folder, name):
        save_checkpoint(
            run.setup.folder / f"{name}.json",
            run.download(outcome),
            {"architecture": outcome["architecture"]},
        )
    model = load_adapted(run, outcome)
    assert model is not None
    return model


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Write files of a name while no other process of this machine does."""
    make_folder(folder)
    with file_lock(folder / f".{name}.lock"):
        remove_torn(folder, f"{name}*")
        yield
