"""Hard attention: every query takes one place of the memory, and learns where by REINFORCE."""

import sys
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention import call_of
from qkv.core.card import Card
from qkv.core.checks import check_floats, check_number, check_rate
from qkv.core.map import AttentionMap, make_map
from qkv.core.types import Mask, Score
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.mechanisms.one_head import with_head
from qkv.scores.dot import scaled_dot


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen, and how likely that was.

    index: the place each query took, −1 where it saw none. log_prob: the logarithm of the probability of that, 0 where
    it saw none; differentiable. entropy: of each query's probabilities, in nats; differentiable. map: all of them.
    """

    index: Int[Tensor, "*batch queries"]
    log_prob: Float[Tensor, "*batch queries"]
    entropy: Float[Tensor, "*batch queries"]
    map: AttentionMap


class HardAttention(nn.Module):
    """The context is one place of the memory: s_t ~ Multinoulli(α_t), with α_t the softmax of the scores.

    No gradient passes from the output to the scores; `reinforce` makes the loss that teaches them.

    Paper: Xu et al. 2015, arXiv:1502.03044, section 4.1.
    Cost: O(queries·keys) scores and memory; the output costs O(queries·width).
    """

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        value: Float[Tensor, "*batch keys value_width"] | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        sample: bool = True,
    ) -> tuple[Float[Tensor, "*batch queries width"], Choice]:
        """Draw a place for each query, or take the likeliest without `sample`; give what stands there, and the choice.

        The value is the memory, unless another is given. A query that sees nothing gets exactly 0.

        Raises: ShapeError, KindError for what does not fit.
        """
        if not isinstance(sample, bool):
            raise KindError(must("HardAttention", "sample", "be True or False", sample))
        value = memory if value is None else value
        one, key, places = with_head("HardAttention", query=query, memory=memory, value=value)
        call = call_of("HardAttention", one, key, places, self.score, None, mask, None, 0.0)
        seen = make_map(call)
        # One more place, which nobody is drawn to and where only zeros stand, for the queries that see nothing.
        weights = F.pad(seen.dense(limit=sys.maxsize).squeeze(-3), (0, 1))
        with torch.no_grad():
            # The smallest of independent waiting times, each at the rate of its weight, is a draw by the weights.
            index = (weights / torch.empty_like(weights).exponential_() if sample else weights).argmax(-1)
            index = torch.where((weights != 0).any(-1), index, weights.shape[-1] - 1)
        taken = weights.gather(-1, index[..., None]).squeeze(-1)
        alive = index < weights.shape[-1] - 1
        log_prob = torch.where(alive, taken, 1).log()
        entropy = -(weights * torch.where(weights > 0, weights, 1).log()).sum(-1)
        places = F.pad(call.value.squeeze(-3), (0, 0, 0, 1))
        output = places.gather(-2, index[..., None].expand(*index.shape, places.shape[-1]))
        return output, Choice(torch.where(alive, index, -1), log_prob, entropy, seen)


class MovingBaseline(nn.Module):
    """What reward to expect: b_k = decay · b_{k−1} + (1 − decay) · mean reward of the k-th batch, from b_0 = 0.

    The value is a buffer, so that a checkpoint carries it. Read `value` for the loss, then `update`: a baseline that
    has seen the reward it is subtracted from would bias the gradient.

    Paper: Xu et al. 2015, arXiv:1502.03044, section 4.1 (reward: the log-likelihood of the words).
    Raises: KindError, ArgumentError if decay is not a number in [0, 1].
    """

    value: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        check_rate("MovingBaseline", "decay", decay)
        self.decay = decay
        self.register_buffer("value", torch.zeros(()))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "*batch"]) -> None:
        """Let the rewards of one batch move the value. Raises: KindError, ArgumentError unless there are some."""
        check_floats("MovingBaseline.update", "reward", reward)
        if not reward.numel():
            raise ArgumentError(must("MovingBaseline.update", "reward", "hold at least one number", list(reward.shape)))
        self.value.mul_(self.decay).add_((1 - self.decay) * reward.mean().to(self.value))

    def extra_repr(self) -> str:
        return f"decay={self.decay:g}"


def reinforce(
    choice: Choice, reward: Float[Tensor, "..."], baseline: float | Tensor = 0.0, *, entropy: float = 0.0
) -> Float[Tensor, ""]:
    """Make the loss whose gradient is REINFORCE's: the mean of −(reward − baseline) · log_prob − entropy · H.

    The reward is a number for each choice, or with a last dimension of 1 for a whole sequence of choices; its own
    gradient is cut. Add the loss of the words, which teaches everything else.

    Paper: Xu et al. 2015, arXiv:1502.03044, section 4.1 (λ_r is the reward's scale, λ_e is `entropy`).
    Raises: ShapeError if reward or baseline do not fit the choice; KindError, ArgumentError if they are no floating
    tensors (a baseline may be a number), or entropy is not a finite number.
    """
    if not isinstance(choice, Choice):
        rule, fix = "be a qkv.Choice", "the second result of HardAttention"
        raise KindError(must("reinforce", "choice", rule, type(choice).__name__, fix))
    check_number("reinforce", "entropy", entropy, "a finite number")
    check_floats("reinforce", "reward", reward)
    whole = choice.log_prob.shape
    rule = f"have the shape {list(whole)}, or 1 in place of the last"
    if reward.shape not in (whole, (*whole[:-1], 1)):
        fix = "one for each sequence: reward.unsqueeze(-1)"
        raise ShapeError(must("reinforce", "reward", rule, list(reward.shape), fix))
    if not isinstance(baseline, Tensor):
        check_number("reinforce", "baseline", baseline, "a finite number or a floating tensor")
    else:
        check_floats("reinforce", "baseline", baseline)
        if baseline.shape not in ((), whole, (*whole[:-1], 1)):
            fix = "or one number for all"
            raise ShapeError(must("reinforce", "baseline", rule, list(baseline.shape), fix))
    advantage = (reward - baseline).detach()
    return -(advantage * choice.log_prob).mean() - entropy * choice.entropy.mean()


class _Likeliest(HardAttention):
    """The choice without chance, for the card: what two calls give can be compared."""

    def forward(  # type: ignore[override]
        self, query: Tensor, memory: Tensor, *, mask: Mask | Tensor | None = None
    ) -> tuple[Tensor, Choice]:
        return super().forward(query, memory, mask=mask, sample=False)


CARDS = (
    Card(
        name="hard attention",
        kind="mechanism",
        equation="h_j,  j ~ softmax(s)",
        paper="Xu et al. 2015, arXiv:1502.03044",
        cost="n·m scores, n values",
        build=lambda: _Likeliest(scaled_dot()),
    ),
)
