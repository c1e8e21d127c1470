import numpy as np
import pytest
import timm
import torch
from torch import nn

from glora_automl.adapters import GLoRALinear, linear_shapes
from glora_automl.architecture import Architecture, Choice
from glora_automl.budget import FeasibleRegion
from glora_automl.errors import ArchitectureError, CheckpointError, LayerError
from glora_automl.search_space import SearchSpace, SearchSpaceSpec
from glora_automl.supernet import Supernet
from glora_automl.training import tensor_digest

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}


def vit(name="vit_tiny_patch16_224", seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name, num_classes=3, **{**SMALL, **kwargs}).eval()


# Each kind of choice, with several ranks.
SPEC = SearchSpaceSpec(
    choices={
        "A": ("none", "scalar", "vector", "lora-1", "lora-4"),
        "B": ("none", "scalar", "vector", "lora-2", "lora-8"),
        "C": ("none", "vector", "lora-1", "lora-3"),
        "D": ("none", "scalar", "vector"),
        "E": ("none", "scalar", "vector"),
    }
)


def space_of(model):
    return SearchSpace(SPEC, linear_shapes(model))


def random_architectures(space, count, seed=0):
    region = FeasibleRegion(space, space.maximum)
    rng = np.random.default_rng(seed)
    return [space.architecture(region.draw_uniform(rng)) for _ in range(count)]


def randomise(supernet, seed=0):
    """Set all trainable tensors to random values, so that architectures have other outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in supernet.trainable().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.fixture
def model():
    return vit()


@pytest.fixture
def space(model):
    return space_of(model)


@pytest.fixture
def supernet(model, space):
    return Supernet(model, space.layer_choices())


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Decoys(nn.Module):
    """A model with names that contain those of adapters and heads."""

    def __init__(self):
        super().__init__()
        self.lora_head = nn.Linear(8, 8)
        self.head_norm = nn.LayerNorm(8)
        self.B_left = nn.Parameter(torch.ones(8))
        self.classify = nn.Linear(8, 3)

    def get_classifier(self):
        return self.classify

    def forward(self, x):
        return self.classify(self.head_norm(self.lora_head(x) * self.B_left))


@pytest.mark.parametrize(
    ("build", "heads"),
    [
        (vit, {"head.weight", "head.bias"}),
        (
            lambda: vit("deit_tiny_distilled_patch16_224"),
            {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"},
        ),
        (Decoys, {"classify.weight", "classify.bias"}),
    ],
    ids=["vit", "distilled", "decoys"],
)
def test_supernet_trains_exactly_adapters_and_heads(build, heads):
    model = build()
    before = {id(p): name for name, p in model.named_parameters()}
    supernet = Supernet(model, space_of(model).layer_choices())
    for parameter in model.parameters():
        added = id(parameter) not in before
        assert parameter.requires_grad == (added or before[id(parameter)] in heads)
    expected = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert {name: id(p) for name, p in supernet.trainable().items()} == expected
    adapters = [layer for layer in model.modules() if isinstance(layer, GLoRALinear)]
    added = sum(id(p) not in before for p in model.parameters())
    assert added == sum(len(list(layer.parameters(recurse=False))) for layer in adapters) > 0
    assert heads <= set(expected)


def test_supernet_without_a_classifier_trains_only_adapters():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    supernet = Supernet(model, {"0": {"E": [Choice.parse("vector")]}})
    assert set(supernet.trainable()) == {"0.E_vector"}


def test_count_excludes_the_head(supernet, space):
    none = Architecture.uniform(space.shapes)
    supernet.activate(none)
    assert none.count(space.shapes) == 0
    assert set(supernet.active_state_dict()) == {"head.weight", "head.bias"}


def test_active_state_dict_has_as_many_elements_as_the_count(supernet, space):
    head = sum(p.numel() for p in supernet.model.head.parameters())
    counts = set()
    for architecture in random_architectures(space, 20):
        supernet.activate(architecture)
        elements = sum(t.numel() for t in supernet.active_state_dict().values())
        assert elements == architecture.count(space.shapes) + head
        counts.add(elements)
    assert len(counts) > 10


def test_active_state_dict_in_a_new_supernet_reproduces_the_subnet(supernet, space, images):
    randomise(supernet)
    for architecture in random_architectures(space, 5):
        supernet.activate(architecture)
        with torch.no_grad():
            expected = supernet.model(images)
        # A supernet of this architecture alone, with tensors of the active ranks.
        active_choices = {
            name: {t: [c] for t, c in zip("ABCDE", choices, strict=True)}
            for name, choices in architecture.items()
        }
        standalone = Supernet(vit(), active_choices, seed=99)
        standalone.load_state_dict(supernet.active_state_dict())
        standalone.activate(architecture)
        with torch.no_grad():
            torch.testing.assert_close(standalone.model(images), expected, rtol=1e-5, atol=1e-5)


def test_active_state_dict_returns_copies(supernet, space):
    randomise(supernet)
    supernet.activate(Architecture.uniform(space.shapes, B="lora-2", E="vector"))
    before = supernet.active_state_dict()
    digest = tensor_digest(before)
    randomise(supernet, seed=1)
    assert tensor_digest(before) == digest
    assert tensor_digest(supernet.active_state_dict()) != digest


def test_supernet_at_initialisation_equals_the_backbone(supernet, space, images):
    with torch.no_grad():
        expected = vit()(images)
        for architecture in random_architectures(space, 5):
            supernet.activate(architecture)
            torch.testing.assert_close(supernet.model(images), expected)


def test_load_state_dict_in_another_supernet_gives_the_same_state(supernet, space):
    randomise(supernet)
    state = supernet.state_dict()
    other = Supernet(vit(seed=1), space.layer_choices(), seed=5)
    assert tensor_digest(other.state_dict()) != tensor_digest(state)
    other.load_state_dict(state)
    assert tensor_digest(other.state_dict()) == tensor_digest(state)


def test_state_dict_is_a_copy_and_loading_keeps_the_parameter_objects(supernet):
    before = {name: id(p) for name, p in supernet.model.named_parameters()}
    state = supernet.state_dict()
    digest = tensor_digest(state)
    randomise(supernet)
    assert tensor_digest(state) == digest
    supernet.load_state_dict(state)
    assert {name: id(p) for name, p in supernet.model.named_parameters()} == before


def without(state):
    state.popitem()


def with_more(state):
    state["blocks.0.attn.qkv.linear.weight"] = torch.zeros(48, 16)


def misshapen(state):
    name = list(state)[-1]  # the last one, as no tensor before it may be set either
    state[name] = state[name].repeat(2)


@pytest.mark.parametrize("spoil", [without, with_more, misshapen])
def test_load_state_dict_with_a_wrong_state_raises_and_sets_nothing(supernet, spoil):
    before = tensor_digest(supernet.state_dict())
    state = {name: torch.full_like(t, 7.0) for name, t in supernet.state_dict().items()}
    spoil(state)
    with pytest.raises(CheckpointError, match="must have"):
        supernet.load_state_dict(state)
    assert tensor_digest(supernet.state_dict()) == before


class _NormalisedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 4)
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.body(x))


def test_state_dict_has_the_statistics_of_batch_norms_in_the_head():
    choices = {"body": {"B": [Choice.parse("lora-1")]}}
    first, second = (Supernet(_NormalisedHead(), choices) for _ in range(2))
    subnet = Supernet(_NormalisedHead(), choices)
    for supernet in (first, subnet):
        supernet.activate(Architecture.parse("body: B=lora-1"))
    x = 5 + 3 * torch.randn(32, 6)
    first.model.train()(x)
    second.load_state_dict(first.state_dict())
    subnet.load_state_dict(first.active_state_dict())

    for found in (second, subnet):
        norm, kept = found.model.head[0], first.model.head[0]
        assert torch.equal(norm.running_mean, kept.running_mean)
        assert norm.num_batches_tracked == 1
    assert not set(first.trainable()) & {name for name in first.state_dict() if "running" in name}


def test_supernet_takes_initial_values_from_the_seed_alone(space):
    digests = []
    for seed, process_seed in ((0, 0), (0, 1), (1, 0)):
        model = vit()
        with torch.random.fork_rng():
            torch.manual_seed(process_seed)
            state = torch.get_rng_state()
            digests.append(
                tensor_digest(Supernet(model, space.layer_choices(), seed=seed).state_dict())
            )
            assert torch.equal(torch.get_rng_state(), state)
    assert digests[0] == digests[1] != digests[2]


def test_merged_model_keeps_trainable_tensors_and_requires_grad(supernet, space):
    randomise(supernet)
    before = tensor_digest(supernet.state_dict())
    trainable = set(supernet.trainable())
    supernet.activate(random_architectures(space, 1)[0])
    supernet.merged_model().write()
    assert tensor_digest(supernet.state_dict()) == before
    assert {n for n, p in supernet.model.named_parameters() if p.requires_grad} == trainable


def choices_of(*names):
    return {name: {"E": [Choice.parse("vector")]} for name in names}


def test_supernet_with_unknown_layers_or_choices_raises(model):
    with pytest.raises(LayerError, match="blocks"):
        Supernet(model, choices_of("blocks.0.attn.kqv"))
    with pytest.raises(ArchitectureError, match="lora-17"):
        Supernet(vit(), {"blocks.0.attn.proj": {"B": [Choice.parse("lora-17")]}})
