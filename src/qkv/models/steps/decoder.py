"""One token more through a Transformer's decoder by kernels, where it is the plain one of few rows on the CPU."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.backends.available import no_kernels
from qkv.core.checks import are_concrete, autocasts
from qkv.mechanisms.cache import GrowingCache
from qkv.mechanisms.multihead import Memory, MultiHead
from qkv.models.layers import PostResidual, PreResidual
from qkv.models.steps import NARROWEST, _flat, _is_plain, _linear, _norm, _share
from qkv.scores.dot import scaled_dot
from qkv.selections.soft import softmax

MOST_ROWS = 64
"""Rows above which PyTorch's products are as fast."""


SHARED_ROWS = 16
"""Rows from which on threads share the sources: each then reads all weights, but computes longer than it reads."""


def refuses(layers: Sequence[nn.Module], norm: nn.Module, head: Tensor) -> str | None:
    """Say what the kernels do not express, or None."""
    tensors = [head, *(parameter for module in (*layers, norm) for parameter in module.parameters())]
    if not are_concrete(*tensors) or autocasts(head.device):
        return "they read memory itself, on the CPU"
    if missing := no_kernels():
        return missing
    if any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in tensors):
        return "they compute in float32"
    for layer in cast(Sequence[Any], layers):
        residuals = [layer.attention_residual, layer.cross_residual, layer.feed_forward_residual]
        if len({type(each) for each in residuals} - {PreResidual, PostResidual}) or not all(
            _is_plain(each.norm) for each in residuals
        ):
            return "they know LayerNorm before or after each layer"
        attentions = [layer.attention, layer.cross]
        if any(each.score not in (None, scaled_dot()) or each.select not in (None, softmax()) for each in attentions):
            return "they know the softmax of scaled dot products"
        if layer.attention.positions is not None or type(layer.feed_forward.activation) is not nn.ReLU:
            return "they know positions at the input, and ReLU"
        if (
            min(layer.attention.query.out_features // layer.attention.heads, layer.feed_forward.expand.out_features)
            < NARROWEST
        ):
            return f"heads or feed-forward layers are narrower than {NARROWEST}"
        if layer.training:
            return "they drop nothing"
    return None if _is_plain(norm) or isinstance(norm, nn.Identity) else "they end with LayerNorm, or with nothing"


class DecoderSteps:
    """A decoder's layers, the norm after them and the head, as the kernels take them: where they lie, uncopied."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module, head: Tensor) -> None:
        self.layers = [_Layer(layer) for layer in layers]
        self.norm = _norm(norm) if isinstance(norm, nn.LayerNorm) else None
        self.head, self.vocabulary = _flat(head), head.shape[0]
        self.numbers = sum(parameter.numel() for layer in layers for parameter in layer.parameters())

    def __call__(
        self,
        x: Float[Tensor, "rows width"],
        caches: Sequence[GrowingCache],
        memories: Sequence[Memory],
        lengths: Int[Tensor, " sources"],
    ) -> Float[Tensor, "rows vocabulary"]:
        """Take an embedded token of each row through all layers, into the caches, and give the logits of the next."""
        from qkv.models.steps import decoder_kernel, kernel

        rows, width = x.shape
        stream, sources = x.contiguous().numpy().reshape(-1), lengths.numpy()
        stores = [
            (*cache.make_room(1), memory.key, memory.value) for cache, memory in zip(caches, memories, strict=True)
        ]
        logits, seen, share = np.empty(rows * self.vocabulary, np.float32), caches[0].seen, rows // len(sources)

        def advance(first: int, last: int) -> None:
            """Take the rows of the sources `first` to `last` through all layers."""
            start, stop = first * share, last * share
            mine = stream[start * width : stop * width]
            for layer, (key, value, *memory) in zip(self.layers, stores, strict=True):
                arrays = [_flat(each) for each in (key[start:stop], value[start:stop])]
                arrays += [_flat(each[first:last].contiguous()) for each in memory]
                layer(mine, stop - start, key.shape[-2], seen, memory[0].shape[-2], sources[first:last], *arrays)
            if self.norm is not None:
                kernel.norm(mine, stop - start, width, *self.norm, mine)

        def predict(first: int, last: int) -> None:
            decoder_kernel.products(self.head, first, last, stream, rows, width, self.vocabulary, logits)

        # A matrix takes as long again for every four rows.
        fours = -(-rows // 4)
        _share(advance, len(sources), fours * self.numbers if rows >= SHARED_ROWS else 0)
        _share(predict, self.vocabulary, fours * self.head.size)
        for cache in caches:
            cache.seen += 1
        return torch.from_numpy(logits).view(rows, self.vocabulary)


class _Layer:
    """A decoder's layer, as the kernel takes it."""

    def __init__(self, layer: Any) -> None:
        attention, cross, feed_forward = layer.attention, layer.cross, layer.feed_forward
        self.heads, self.width = attention.heads, attention.query.in_features
        self.sizes = (
            self.width,
            self.heads,
            attention.query.out_features // self.heads,
            feed_forward.expand.out_features,
        )
        self.pre = isinstance(layer.attention_residual, PreResidual)
        self.own = [*_norm(layer.attention_residual.norm), *_matrices(attention, "query", "key", "value", "output")]
        self.across = [*_norm(layer.cross_residual.norm), *_matrices(cross, "query", "output")]
        self.think = [
            *_norm(layer.feed_forward_residual.norm),
            *_linear(feed_forward.expand),
            *_linear(feed_forward.contract),
        ]

    def __call__(
        self,
        stream: np.ndarray,
        rows: int,
        capacity: int,
        seen: int,
        longest: int,
        lengths: np.ndarray,
        *stores: np.ndarray,
    ) -> None:
        from qkv.models.steps import decoder_kernel

        keys, values, memory_keys, memory_values = stores
        decoder_kernel.layer(
            stream, rows, *self.sizes, self.pre,
            *self.own, keys, values, capacity, seen,
            *self.across, memory_keys, memory_values, lengths, longest,
            *self.think,
        )  # fmt: skip


def _matrices(attention: MultiHead, *names: str) -> list[np.ndarray]:
    return [array for name in names for array in _linear(getattr(attention, name))]
