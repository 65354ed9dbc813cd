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

from qkv.backends.threads import in_parallel
from qkv.core.checks import are_concrete, autocasts
from qkv.mechanisms.cache import GrowingCache
from qkv.models.layers import Block, PreResidual
from qkv.scores.dot import scaled_dot
from qkv.selections.soft import softmax

MOST_ROWS = 8
"""Rows above which PyTorch's products, which then compute more than they read, are as fast."""

SHARED = 1 << 21
"""Numbers in a matrix from which on threads share its rows: asking them costs some 20 µs."""

NARROWEST = 16
"""Numbers in a register, at most: no head or row may be shorter."""


def refuses(blocks: Sequence[nn.Module], norm: nn.Module, head: Tensor) -> str | None:
    """Say what the kernels do not express, or None."""
    tensors = [head, *(parameter for module in (*blocks, norm) for parameter in module.parameters())]
    if not are_concrete(*tensors) or autocasts(head.device):
        return "they read memory itself, on the CPU"
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
    """Blocks, the norm after them and the head, as the kernels take them: where they lie, without a copy."""

    def __init__(self, blocks: Sequence[nn.Module], norm: nn.LayerNorm, head: Tensor) -> None:
        self.blocks = [_Step(cast(Block, block)) for block in blocks]
        self.norm, self.head = _norm(norm), _flat(head)
        self.vocabulary = head.shape[0]

    def __call__(
        self, x: Float[Tensor, "rows width"], caches: Sequence[GrowingCache]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Take an embedded token of each row through all blocks, into the caches, and give the logits of the next."""
        from qkv.models.steps import kernel

        rows, width = x.shape
        stream = x.numpy().reshape(-1)
        for block, cache in zip(self.blocks, caches, strict=True):
            block(stream, rows, cache)
        normed, logits = np.empty_like(stream), np.empty(rows * self.vocabulary, np.float32)
        kernel.norm(stream, rows, width, *self.norm, normed)
        starts = np.arange(rows) * self.vocabulary
        _share(
            lambda first, last: kernel.product(
                self.head, first, last, normed, rows, width, width, logits, starts + first
            ),
            self.vocabulary,
            self.head.size,
        )
        return torch.from_numpy(logits).view(rows, self.vocabulary)


class _Step:
    """A block, as the kernels take it."""

    def __init__(self, block: Block) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.heads, self.width = attention.heads, attention.query.in_features
        self.dim = attention.query.out_features // self.heads
        self.hidden = feed_forward.expand.out_features
        self.attention_norm = _norm(block.attention_residual.norm)
        self.feed_forward_norm = _norm(block.feed_forward_residual.norm)
        self.read = [array for linear in (attention.query, attention.key, attention.value) for array in _linear(linear)]
        self.output, self.expand = _linear(attention.output), _linear(feed_forward.expand)
        self.contract = _linear(feed_forward.contract)
        self.tanh = cast(nn.GELU, feed_forward.activation).approximate == "tanh"

    def __call__(self, stream: np.ndarray, rows: int, cache: GrowingCache) -> None:
        from qkv.models.steps import kernel

        key, value = cache.make_room(1)
        position, capacity = cache.position, key.shape[-2]
        places = np.full(rows, position) if isinstance(position, int) else position.numpy()
        keys, values = _flat(key), _flat(value)
        cache.seen += 1
        if not _pays(self.expand[0].size):
            kernel.block(
                stream, rows, self.width, *self.attention_norm, *self.read, keys, values, places, capacity,
                self.heads, self.dim, *self.output, *self.feed_forward_norm, *self.expand, self.hidden, self.tanh,
                *self.contract,
            )  # fmt: skip
            return
        mixed, hidden = np.empty(rows * self.width, np.float32), np.empty(rows * self.hidden, np.float32)
        _share(
            lambda first, last: kernel.attend(
                stream, rows, self.width, *self.attention_norm, *self.read, keys, values, places, capacity,
                self.heads, self.dim, first, last, mixed,
            ),
            self.heads,
            3 * self.read[0].size,
        )  # fmt: skip
        self._add(self.output, mixed, rows, self.width, stream)
        _share(
            lambda first, last: kernel.expand(
                stream, rows, self.width, *self.feed_forward_norm, *self.expand, self.hidden, self.tanh,
                first, last, hidden,
            ),
            self.hidden,
            self.expand[0].size,
        )  # fmt: skip
        self._add(self.contract, hidden, rows, self.hidden, stream)

    def _add(self, linear: tuple[np.ndarray, np.ndarray], x: np.ndarray, rows: int, width: int, to: np.ndarray) -> None:
        from qkv.models.steps import kernel

        _share(
            lambda first, last: kernel.add(*linear, first, last, x, rows, width, to, self.width),
            self.width,
            linear[0].size,
        )


def _share(work: Callable[[int, int], object], count: int, numbers: int) -> None:
    """Call work(first, last) for all of 0..count, in parts on the threads where there are numbers enough to read."""
    parts = min(torch.get_num_threads(), count) if _pays(numbers) else 1
    if parts == 1:
        work(0, count)
        return
    in_parallel(lambda part: work(count * part // parts, count * (part + 1) // parts), parts)


def _pays(numbers: int) -> bool:
    """Say whether threads should share a matrix of so many numbers."""
    return numbers >= SHARED and torch.get_num_threads() > 1


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(-1).numpy()


def _linear(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return _flat(linear.weight), _flat(linear.bias)


def _norm(norm: nn.Module) -> tuple[np.ndarray, np.ndarray, float]:
    norm = cast(nn.LayerNorm, norm)
    return _flat(norm.weight), _flat(norm.bias), norm.eps
