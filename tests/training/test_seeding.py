from concurrent.futures import ThreadPoolExecutor

import torch

from glora_automl.training import stage_rng
from tests.training.runs import Run


def test_stage_rng_depends_on_seed_stage_and_position():
    def draw(*address):
        return tuple(stage_rng(*address).integers(2**32, size=4))

    assert draw(0, "a", 1, 2) == draw(0, "a", 1, 2)
    addresses = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 2, 1)]
    assert len({draw(*address) for address in addresses}) == len(addresses)


def test_trainings_in_two_threads_equal_those_one_after_the_other():
    def trained(in_threads):
        runs = [Run("drop-path"), Run("conv"), Run("drop-path")]
        for run in runs:
            run.settings["cutmix"] = 1.0
        seeds = range(len(runs))
        if in_threads:
            with ThreadPoolExecutor(len(runs)) as pool:
                list(pool.map(lambda run, seed: run.fit(seed=seed, epochs=8), runs, seeds))
        else:
            for run, seed in zip(runs, seeds, strict=True):
                run.fit(seed=seed, epochs=8)
        return [run.digest() for run in runs]

    state = torch.get_rng_state()
    assert trained(in_threads=True) == trained(in_threads=False)
    assert torch.equal(torch.get_rng_state(), state)
