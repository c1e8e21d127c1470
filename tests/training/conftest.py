import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.training.runs import KINDS, Run


@pytest.fixture(scope="session")
def uninterrupted():
    """Losses and digest of five uninterrupted epochs of each kind."""
    runs = {kind: Run(kind) for kind in KINDS}
    return {kind: (run.fit().losses, run.digest()) for kind, run in runs.items()}


@pytest.fixture
def steps():
    """Learning rate and gradient norm of each optimiser step."""
    recorded = []

    def record(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        recorded.append((optimizer.param_groups[0]["lr"], norm.item()))

    handle = register_optimizer_step_pre_hook(record)
    yield recorded
    handle.remove()
