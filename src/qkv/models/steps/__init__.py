"""One token more through GPT-2's plain blocks, without their modules: what is left is the reading of the weights.

A step of one token computes little and reads every weight. PyTorch's products of a matrix and one row read it at a
fraction of what memory gives, and the calls around them take as long again. The kernels here read at memory's speed.
"""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.backends.available import no_kernels
from qkv.backends.threads import in_parallel
from qkv.core.checks import are_concrete, autocasts
from qkv.mechanisms.cache import GrowingCache
from qkv.models.layers import Block, PreResidual
from qkv.models.steps.company import Company
from qkv.scores.dot import scaled_dot
from qkv.selections.soft import softmax

MOST_ROWS = 8
"""Rows above which PyTorch's products, which then compute more than they read, are as fast."""

SHARED = 1 << 21
"""Numbers to read from which on threads share them: asking the threads costs some 20 µs."""

NARROWEST = 16
"""Numbers in a register, at most: no head or row may be shorter."""


def refuses(blocks: Sequence[nn.Module], norm: nn.Module, head: Tensor) -> str | None:
    """Say what the kernels do not express, or None."""
    tensors = [head, *(parameter for module in (*blocks, norm) for parameter in module.parameters())]
    if not are_concrete(*tensors) or autocasts(head.device):
        return "they read memory itself, on the CPU"
    if missing := no_kernels():
        return missing
    if any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in tensors):
        return "they compute in float32"
    for block in (cast(Block, block) for block in blocks):
        attention, feed_forward = block.attention, block.feed_forward
        residuals = (block.attention_residual, block.feed_forward_residual)
        if any(not isinstance(residual, PreResidual) or not _is_plain(residual.norm) for residual in residuals):
            return "they know LayerNorm before each layer"
        if attention.score not in (None, scaled_dot()) or attention.select not in (None, softmax()):
            return "they know the softmax of scaled dot products"
        if attention.positions is not None or not isinstance(feed_forward.activation, nn.GELU):
            return "they know positions at the input, and GELU"
        if min(attention.query.out_features // attention.heads, feed_forward.expand.out_features) < NARROWEST:
            return f"heads are narrower than {NARROWEST}"
        if block.training:
            return "they drop nothing"
    return None if _is_plain(norm) else "they end with LayerNorm"


def _is_plain(norm: nn.Module) -> bool:
    return type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None


class Steps:
    """Blocks, the norm after them and the head, as the kernel takes them: where they lie, without a copy."""

    def __init__(self, blocks: Sequence[nn.Module], norm: nn.LayerNorm, head: Tensor) -> None:
        self.blocks = [_weights(cast(Block, block)) for block in blocks]
        self.sizes = [_sizes(cast(Block, block)) for block in blocks]
        self.norm, self.epsilon = (norm.weight.detach(), norm.bias.detach()), norm.eps
        self.head, self.company = head.detach(), Company()
        self.numbers = head.numel() + sum(weight.numel() for block in self.blocks for weight in block)

    def __call__(
        self, x: Float[Tensor, "rows width"], caches: Sequence[GrowingCache]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Take an embedded token of each row through all blocks, into the caches, and give the logits of the next."""
        from qkv.models.steps import kernel
        from qkv.models.steps.board import new_board

        (rows, width), vocabulary = x.shape, self.head.shape[0]
        # Addresses are asked for at each step: a copy of this elsewhere has others.
        places, sizes = (
            np.array(
                [
                    (*(weight.data_ptr() for weight in weights), key.data_ptr(), value.data_ptr(), key.shape[-2])
                    for weights, (key, value) in zip(self.blocks, (cache.make_room(1) for cache in caches), strict=True)
                ],
                kernel.PLACES,
            ),
            np.array(self.sizes, kernel.SIZES),
        )
        position = caches[0].position
        positions = np.full(rows, position) if isinstance(position, int) else position.numpy()
        parts = self.company.size(rows) if self.numbers >= SHARED else 1
        board = new_board(kernel.PHASES * len(places) + 1, parts)
        mixed = np.empty(rows * max(heads * dim for heads, dim, *_ in self.sizes), np.float32)
        bent = np.empty(rows * max(hidden for _, _, hidden, *_ in self.sizes), np.float32)
        stream, logits = x.reshape(-1).numpy(), np.empty(rows * vocabulary, np.float32)
        norm = (*(tensor.data_ptr() for tensor in self.norm), self.epsilon)
        self.company.work(
            lambda part: kernel.step(
                board, part, parts, stream, rows, width, places, sizes, positions,
                *norm, self.head.data_ptr(), vocabulary, mixed, bent, logits,
            ),
            parts,
            rows,
        )  # fmt: skip
        for cache in caches:
            cache.seen += 1
        return torch.from_numpy(logits).view(rows, vocabulary)


def _weights(block: Block) -> list[Tensor]:
    """List a block's weights in the order of the kernel."""
    attention, feed_forward = block.attention, block.feed_forward
    modules = (
        *(block.attention_residual.norm, attention.query, attention.key, attention.value, attention.output),
        *(block.feed_forward_residual.norm, feed_forward.expand, feed_forward.contract),
    )
    return [cast(Tensor, tensor).detach() for module in modules for tensor in (module.weight, module.bias)]


def _sizes(block: Block) -> tuple[int, int, int, bool, float, float]:
    attention, feed_forward = block.attention, block.feed_forward
    dim, tanh = attention.query.out_features // attention.heads, cast(nn.GELU, feed_forward.activation).approximate
    first, second = (cast(nn.LayerNorm, each.norm) for each in (block.attention_residual, block.feed_forward_residual))
    return attention.heads, dim, feed_forward.expand.out_features, tanh == "tanh", first.eps, second.eps


def _share(work: Callable[[int, int], object], count: int, numbers: int) -> None:
    """Call work(first, last) for all of 0..count, in parts on the threads where there are numbers enough to read."""
    parts = min(torch.get_num_threads(), count) if numbers >= SHARED else 1
    in_parallel(lambda part: work(count * part // parts, count * (part + 1) // parts), parts)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(-1).numpy()


def _linear(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return _flat(linear.weight), _flat(linear.bias)


def _norm(norm: nn.Module) -> tuple[np.ndarray, np.ndarray, float]:
    norm = cast(nn.LayerNorm, norm)
    return _flat(norm.weight), _flat(norm.bias), norm.eps
