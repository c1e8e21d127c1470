from glora_automl.training import stage_rng


def test_stage_rng_depends_on_seed_stage_and_position():
    def draw(*address):
        return tuple(stage_rng(*address).integers(2**32, size=4))

    assert draw(0, "a", 1, 2) == draw(0, "a", 1, 2)
    addresses = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 2, 1)]
    assert len({draw(*address) for address in addresses}) == len(addresses)
