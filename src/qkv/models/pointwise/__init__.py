"""Layers that act on each number by itself: dropout and GELU, on the CPU by kernels of one pass over memory."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.backends.available import no_kernels
from qkv.backends.threads import in_parallel
from qkv.core.checks import readable
from qkv.core.dropout import draw_seed, threshold
from qkv.core.types import wide


class Dropout(nn.Dropout):
    """torch's dropout, whose numbers on the CPU are a function of (seed, place): they are drawn again, never stored.

    The seed is drawn from torch's generator once a call.

    Paper: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting";
    counter-based numbers: Salmon et al. 2011.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop features while training, and scale the others up."""
        if not self.training or threshold(float(self.p)) in (0, threshold(1.0)) or not _compiles(x):
            return super().forward(x)
        return _Dropped.apply(x, float(self.p), int(draw_seed(x.device)))


class _Dropped(torch.autograd.Function):
    """Its gradient is dropped in the same places, and so is that one's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, seed: int) -> Tensor:
        from qkv.models.pointwise import kernel

        ctx.rate, ctx.seed = rate, seed
        drawn = seed, threshold(rate) - 1, 1 / (1 - rate)
        whole = wide(x.dtype)
        return _by_lines(lambda *parts: kernel.drop(*parts, *drawn), x.to(whole)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        return _Dropped.apply(above, ctx.rate, ctx.seed), None, None


class Gelu(nn.GELU):
    """torch's GELU; by tanh in float32 on the CPU it takes a quarter of torch's time.

    Paper: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """x Φ(x)."""
        quick = self.approximate == "tanh" and x.dtype == torch.float32 and x.numel() >= MANY and _compiles(x)
        return _Gelu.apply(x) if quick else super().forward(x)


MANY = 1 << 15
"""Numbers from which on GELU's kernel saves more than calling it costs."""


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from qkv.models.pointwise import kernel

        ctx.save_for_backward(x)
        return _by_lines(kernel.gelu, x)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        from qkv.models.pointwise import kernel

        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            # This one can be differentiated again.
            return torch.ops.aten.gelu_backward(above, x, approximate="tanh")
        return _by_lines(kernel.gelu_slope, x, above)


def _compiles(x: Tensor) -> bool:
    """Say whether a kernel can be had, and can read x."""
    return readable(x) and no_kernels() is None


LINES = 16
"""Lines from which on a thread more is worth asking: it costs some 20 µs."""


def _by_lines(function: Callable[..., None], *inputs: Tensor) -> Tensor:
    """Run a kernel of flat arrays over lines, shared among the threads; what it gives is like its first input."""
    from qkv.models.pointwise.kernel import LINE

    inputs = tuple(x.contiguous() for x in inputs)
    out = torch.empty_like(inputs[0])
    flat = [x.detach().view(-1).numpy() for x in (*inputs, out)]
    lines = -(-out.numel() // LINE)
    parts = max(1, min(torch.get_num_threads(), lines // LINES))
    in_parallel(lambda part: function(*flat, lines * part // parts, lines * (part + 1) // parts), parts)
    return out
