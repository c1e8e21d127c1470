"""Stage ``test``: the only use of the test images, and the adapter as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from glora_automl._files import file_lock, make_folder, remove_torn
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._images import Images
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._standalone import load_adapted, score_model
from glora_automl.study import AdapterOutcome, ClassReport, Row, Spent, TestOutcome, stage_spent
from glora_automl.training import Score, save_checkpoint
from glora_automl.workers import Claim

__all__ = ["final_test", "keep_winner"]


def final_test(
    run: Run,
    outcomes: Mapping[str, AdapterOutcome],
    parts: Mapping[str, Sequence[str]],
    claim: Claim,
    selected: str | None = None,
) -> TestOutcome:
    """Test adapters, all at once.

    Args:
        run: The study.
        outcomes: The adapters by the stage that trained their final weights.
        parts: For adapters of several stages, all stages whose seconds and images count.
        claim: The stage's attempt.
        selected: Stage of the adapter whose classes are reported.
    """
    spent = stage_spent(run.study, run.stages.study)
    models = {stage: load_adapted(run, outcome) for stage, outcome in outcomes.items()}
    has_test = len(run.context.task.test) > 0
    images, labels = run.context.test() if has_test else (None, None)
    domains = _test_domains(run, models)
    rows: list[Row] = []
    n_evaluated = sum(score.n_images for found in domains.values() for score in found.values())
    classes: ClassReport | None = None
    for stage, model in models.items():
        row = outcomes[stage].row
        if stage in parts:
            total = Spent()
            for part in parts[stage]:
                total = total.plus(spent.get(part, Spent()))
            row = replace(
                row,
                n_images=total.n_trained,
                n_evaluated=total.n_evaluated,
                seconds=round(total.seconds or 0.0, 2),
            )
        if model is not None:
            score = None
            if images is not None and labels is not None:
                score, by_class = _test(run.context, model, (images, labels))
                n_evaluated += score.n_images
                classes = by_class if stage == selected else classes
            row = replace(row, test=score, domains=domains[stage])
        rows.append(row)
    return TestOutcome(tuple(rows), Spent(n_evaluated=n_evaluated), classes)


def _test(context: Context, model: nn.Module, images: Images) -> tuple[Score, ClassReport]:
    """Return the score of a model, and its predictions by class."""
    found: list[Tensor] = []
    score = score_model(
        context, model, images, on_batch=lambda logits: found.append(logits.argmax(1))
    )
    labels, predictions = images[1].cpu().numpy(), torch.cat(found).cpu().numpy()
    return score, ClassReport.of(context.task.classes, labels, predictions)


def _test_domains(run: Run, models: Mapping[str, nn.Module | None]) -> dict[str, dict[str, Score]]:
    """Return the scores on the test sets of other domains, which are read one by one."""
    scores: dict[str, dict[str, Score]] = {stage: {} for stage in models}
    for name, (images, labels), among in run.context.domains():
        for stage, model in models.items():
            if model is not None:
                scores[stage][name] = score_model(run.context, model, (images, labels), among=among)
    return scores


def keep_winner(run: Run, name: str, outcome: AdapterOutcome) -> nn.Module:
    """Write an adapter into the study's folder on this machine; return its merged model."""
    assert outcome.artifact is not None
    with _only_writer(run.context, name):
        save_checkpoint(
            run.context.folder / f"{name}.json",
            run.download(outcome.artifact),
            {"architecture": outcome.architecture},
        )
    model = load_adapted(run, outcome)
    assert model is not None
    return model


@contextmanager
def _only_writer(context: Context, name: str) -> Iterator[None]:
    """Write files of a name while no other process of this machine does."""
    folder = context.folder
    make_folder(folder)
    lock = folder / f".{name}.lock"
    with file_lock(
        lock, stop=context.stop, log=context.progress.log, holder=f"which writes {name}"
    ):
        # No wider pattern: "winner*" has the files of a selection for another budget, too.
        remove_torn(folder, f"{name}.json", f"{name}-{'[0-9a-f]' * 16}.safetensors")
        yield
