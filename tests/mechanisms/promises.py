"""What every mechanism on [*batch, positions, width] promises, whatever it computes."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import qkv

Run = Callable[..., Tensor]
QUERIES, KEYS, WIDTH = 4, 6, 8


def result(module: nn.Module, query: Tensor, memory: Tensor, **given: object) -> Tensor:
    """The first, or the only result."""
    torch.manual_seed(1)
    found = module(query, memory, **given)
    return found[0] if isinstance(found, tuple) else found


def inputs(seed: int = 0, batch: tuple[int, ...] = (3,)) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    shapes = (*batch, QUERIES, WIDTH), (*batch, KEYS, WIDTH)
    query, memory = (torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in shapes)
    return query.requires_grad_(), memory.requires_grad_()


def gradients(module: nn.Module, *given: Tensor) -> list[Tensor]:
    of = [*given, *module.parameters()]
    return [torch.zeros_like(x) if x.grad is None else x.grad for x in of]


def batch_rows_stand_alone(module: nn.Module) -> None:
    query, memory = inputs()
    whole = result(module, query, memory)
    for row in range(3):
        torch.testing.assert_close(result(module, query[row], memory[row]), whole[row])
    deep = result(module, query[None], memory[None])
    torch.testing.assert_close(deep[0], whole)


def a_row_without_a_key_is_zero(module: nn.Module) -> None:
    query, memory = inputs()
    shown = torch.ones(3, 1, QUERIES, KEYS, dtype=torch.bool)
    shown[0, 0, 1] = False
    shown[2] = False
    for mask in (shown, qkv.dense_mask(shown)):
        out = result(module, query, memory, mask=mask)
        assert out[0, 1].eq(0).all() and out[2].eq(0).all()
        assert out[1].ne(0).any()
        # A mechanism without a gradient for a part of its inputs is not what is asked here.
        out.pow(2).sum().backward() if out.requires_grad else None
        assert all(grad.isfinite().all() for grad in gradients(module, query, memory))


def nan_in_padding_goes_nowhere(module: nn.Module) -> None:
    found = []
    for filling in (0.5, torch.nan, torch.inf):
        fresh = copy.deepcopy(module)
        query, memory = inputs()
        with torch.no_grad():
            memory[0, 4:] = filling
            memory[1, 2:] = filling
            memory[2] = filling
            query[0, 3:] = filling
        mask = qkv.padding(keys=torch.tensor([4, 2, 0]), queries=torch.tensor([3, 4, 4]))
        out = result(fresh, query, memory, mask=mask)
        assert out[0, 3].eq(0).all() and out[2].eq(0).all()
        out.pow(2).sum().backward() if out.requires_grad else None
        found.append([out, *gradients(fresh, query, memory)])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
        assert all(one.isfinite().all() for one in other)


def padding_changes_nothing(module: nn.Module) -> None:
    query, memory = inputs(batch=(2,))
    padded = torch.cat((memory, memory[:, :2] + 1), dim=1)
    keys = torch.tensor([KEYS, KEYS])
    out = result(module, query, padded, mask=qkv.padding(keys=keys))
    torch.testing.assert_close(out, result(module, query, memory))


def gradients_are_right(module: nn.Module) -> None:
    query, memory = inputs(batch=(2,))
    mask = qkv.padding(keys=torch.tensor([KEYS, 3]))
    names = [name for name, _ in module.named_parameters()]

    def run(query: Tensor, memory: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        out = torch.func.functional_call(module, named, (query, memory), {"mask": mask})
        return out[0] if isinstance(out, tuple) else out

    assert torch.autograd.gradcheck(run, (query, memory, *module.parameters()), fast_mode=True)


def the_first_queries_do_not_see_the_later(module: nn.Module) -> None:
    """Under a causal mask of queries beside their keys, a later query and key change nothing before them."""
    query, memory = inputs()
    later_query, later_memory = query.detach().clone(), memory.detach().clone()
    later_query[:, 2:] += 1
    later_memory[:, 4:] -= 1
    now = result(module, query, memory, mask=qkv.causal())
    then = result(module, later_query, later_memory, mask=qkv.causal())
    assert torch.equal(now[:, :2], then[:, :2])
    assert not torch.equal(now[:, 2:], then[:, 2:])


def half_precision_stays_near(module: nn.Module) -> None:
    query, memory = inputs()
    low = copy.deepcopy(module).to(torch.bfloat16)
    out = result(low, query.to(torch.bfloat16), memory.to(torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert result(copy.deepcopy(module).float(), query.float(), memory.float()).isfinite().all()


PROMISES = [
    batch_rows_stand_alone,
    a_row_without_a_key_is_zero,
    nan_in_padding_goes_nowhere,
    padding_changes_nothing,
    gradients_are_right,
    the_first_queries_do_not_see_the_later,
    half_precision_stays_near,
]
