"""Weights and AdamW's state by name: exact there and back; another model's are refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qkv.errors import FileError
from qkv.training.states import adamw, load_optimizer_state, load_weights, optimizer_state, weights_of


class Tied(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.embed = nn.Embedding(5, width)
        self.norm = nn.LayerNorm(width)
        self.unused = nn.Linear(width, 2)
        self.out = nn.Linear(width, 5)
        self.out.weight = self.embed.weight
        self.register_buffer("seen", torch.tensor(3))


def trained(steps=3):
    torch.manual_seed(0)
    model = Tied()
    optimizer = adamw(model, 0.1, (0.9, 0.99))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model.out(model.norm(model.embed.weight)), torch.arange(5)).backward()
        optimizer.step()
    return model, optimizer


def test_biases_and_norms_do_not_decay():
    model = Tied()
    groups = adamw(model, 0.1, (0.9, 0.99)).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    matrices = {"embed.weight": 0.1, "unused.weight": 0.1}
    assert found == matrices | dict.fromkeys(["norm.weight", "norm.bias", "unused.bias", "out.bias"], 0.0)
    model.embed.requires_grad_(False)
    model.unused.requires_grad_(False)
    assert [group["weight_decay"] for group in adamw(model, 0.1, (0.9, 0.99)).param_groups] == [0.0]


def test_a_copy_goes_on_to_the_same_bits(tmp_path):
    model, optimizer = trained()
    weights, state = weights_of(model), optimizer_state(model, optimizer)
    # As from a file: they are views of what the model and the optimiser hold.
    weights, state = ({name: value.clone() for name, value in part.items()} for part in (weights, state))
    # A tied weight is there once, a parameter without a gradient has no state.
    assert "out.weight" not in weights and "seen" in weights
    assert not any(name.startswith("unused") for name in state)
    copy = Tied()
    load_weights(copy, weights, tmp_path)
    assert copy.out.weight is copy.embed.weight
    its = adamw(copy, 0.1, (0.9, 0.99))
    load_optimizer_state(copy, its, state, tmp_path)
    for each, steps in ((model, optimizer), (copy, its)):
        steps.zero_grad()
        each.out(each.norm(each.embed.weight)).square().sum().backward()
        steps.step()
    for name, value in weights_of(model).items():
        assert torch.equal(value, weights_of(copy)[name]), name
    for name, value in optimizer_state(model, optimizer).items():
        assert torch.equal(value, optimizer_state(copy, its)[name]), name


def test_a_rank_that_does_not_keep_gets_nothing():
    model, optimizer = trained()
    assert weights_of(model, keep=False) == {} and optimizer_state(model, optimizer, keep=False) == {}


def test_another_models_weights_are_named(tmp_path):
    weights = weights_of(Tied())
    file = tmp_path / "weights.safetensors"
    text = (
        rf"^load_weights: {file} must hold the weights of this model; got "
        r"embed.weight float32\[5, 4\], not float32\[5, 6\]; missing out.bias; "
        r"norm.bias float16\[4\], not float32\[6\]; .*unknown other"
    )
    weights["other"] = weights.pop("out.bias")
    weights["norm.bias"] = weights["norm.bias"].half()
    model = Tied(6)
    before = model.embed.weight.clone()
    with pytest.raises(FileError, match=text):
        load_weights(model, weights, file)
    assert torch.equal(model.embed.weight, before)


def test_another_models_state_is_named(tmp_path):
    model, optimizer = trained()
    state = optimizer_state(model, optimizer)
    for bad in ({"other/exp_avg": torch.zeros(3)}, {"norm.bias/exp_avg": torch.zeros(3)}):
        (key,) = bad
        text = rf"^load_optimizer_state: {tmp_path} must hold the state of this model; got {key} float32\[3\]$"
        with pytest.raises(FileError, match=text):
            load_optimizer_state(model, optimizer, state | bad, tmp_path)
