"""Generation: tokens one after another, from any model that can take a step.

    state = gpt.start()
    for tokens in generate(gpt, state, prompts, choose=sample(temperature=0.8, top_p=0.95), new=200, stop=end):
        ...                                       # one token for each row, as it comes

A model offers `step`, its state `reorder`; how a state starts is the model's own: from nothing, a source, a picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.checks import check_integers, check_number, check_whole
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.masks.algebra import Mask
from qkv.models.bert import Bert

NO_TOKEN = -1
"""What stands in the place of a token after a row has stopped."""


@runtime_checkable
class State(Protocol):
    """What a model keeps between steps, for each row."""

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i become what row `rows[i]` was; there may be more rows than before, or fewer."""
        ...


@runtime_checkable
class Generator(Protocol):
    """A model that generates."""

    def step(self, tokens: Int[Tensor, "rows new"], state: Any) -> Float[Tensor, "rows vocabulary"]:
        """Take new tokens of each row in, and give the logits of the next one. The state advances in place."""
        ...


# Choosing a token


@runtime_checkable
class Choice(Protocol):
    """How a token is chosen by its logits."""

    def __call__(
        self, logits: Float[Tensor, "rows vocabulary"], generator: torch.Generator | None
    ) -> Int[Tensor, " rows"]:
        """Choose one for each row."""
        ...


@dataclass(frozen=True)
class Greedy:
    """The likeliest token."""

    def __call__(
        self, logits: Float[Tensor, "rows vocabulary"], generator: torch.Generator | None = None
    ) -> Int[Tensor, " rows"]:
        """Choose one for each row."""
        return logits.argmax(-1)


@dataclass(frozen=True)
class Sample:
    """A token drawn by chance."""

    temperature: float
    top_k: int | None
    top_p: float | None

    def __call__(
        self, logits: Float[Tensor, "rows vocabulary"], generator: torch.Generator | None = None
    ) -> Int[Tensor, " rows"]:
        """Draw one for each row."""
        return self.probabilities(logits).multinomial(1, generator=generator).squeeze(-1)

    def probabilities(self, logits: Float[Tensor, "rows vocabulary"]) -> Float[Tensor, "rows vocabulary"]:
        """Give what is drawn from."""
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, -1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p is not None:
            likely, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
            # A token stays if those before it have not reached p yet.
            late = likely.cumsum(-1) - likely >= self.top_p
            logits = logits.masked_fill(torch.empty_like(late).scatter_(-1, order, late), -torch.inf)
        return logits.softmax(-1)


def greedy() -> Greedy:
    """Choose the likeliest token; of equals the first."""
    return Greedy()


def sample(*, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Sample:
    """Draw from softmax(logits / temperature), of the `top_k` likeliest, of the fewest that make up `top_p`.

    Paper: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (top-p).
    Raises: KindError, ArgumentError unless temperature is a number > 0, top_k an integer of at least 1, and top_p lies
    in (0, 1].
    """
    check_number("sample", "temperature", temperature, "a finite number > 0", above=0.0)
    if top_k is not None:
        check_whole("sample", "top_k", top_k, 1)
    if top_p is not None:
        check_number("sample", "top_p", top_p, "a number in (0, 1]", above=0.0)
        if top_p > 1:
            raise ArgumentError(must("sample", "top_p", "be a number in (0, 1]", top_p))
    return Sample(temperature, top_k, top_p)


# Generating


def generate(
    model: Generator,
    state: Any,
    tokens: Int[Tensor, "rows new"],
    *,
    new: int,
    choose: Choice | None = None,
    stop: int | Sequence[int] = (),
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, " rows"]]:
    """Take in the tokens, and yield up to `new` more, one for each row at a time, chosen greedily by default.

    After its first `stop` token a row yields −1; when every row has stopped, generation ends. The same seed
    of `generator` (torch's own by default) gives the same tokens.

    Cost: a step of the model for each token.
    Raises: KindError, ShapeError, ArgumentError for what does not fit, before anything is computed.
    """
    stops = _check("generate", tokens, new, stop)
    if choose is not None and (isinstance(choose, type) or not callable(choose)):
        raise KindError(must("generate", "choose", "be a choice", choose, "such as qkv.greedy() or qkv.sample()"))
    return _generate(model, state, tokens, new, choose or greedy(), stops, generator)


def _generate(
    model: Generator,
    state: Any,
    tokens: Tensor,
    new: int,
    choose: Choice,
    stops: Tensor,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    ended: Tensor | None = None
    for _ in range(new):
        # Not around the yield: what the caller does meanwhile is the caller's.
        with torch.no_grad():
            chosen = choose(model.step(tokens, state), generator)
            tokens = chosen[:, None]
            if stops.numel():
                shown = chosen if ended is None else chosen.masked_fill(ended, NO_TOKEN)
                ends = torch.isin(chosen, stops)
                ended = ends if ended is None else ended | ends
                chosen = shown
        yield chosen
        if ended is not None and bool(ended.all()):
            return


@dataclass(frozen=True, eq=False)
class Beams:
    """What a beam search found for each text, the best first; a sequence ends with `lengths`, and −1 follows."""

    tokens: Int[Tensor, "texts beams longest"]
    lengths: Int[Tensor, "texts beams"]
    scores: Float[Tensor, "texts beams"]


@torch.no_grad()
def beam_search(
    model: Generator,
    state: State,
    tokens: Int[Tensor, "texts new"],
    *,
    new: int,
    stop: int | Sequence[int] = (),
    beams: int = 4,
    length_penalty: float = 1.0,
) -> Beams:
    """Search for the likeliest continuations of up to `new` tokens, keeping the `beams` best at each step.

    A continuation that has ended, by a stop token or at `new`, scores log p / length^length_penalty. The search of a
    text stops when its best open beam, scored as if it ended here, is worse than all of its ended ones.

    Paper: Sutskever et al. 2014, arXiv:1409.3215; Wu et al. 2016, arXiv:1609.08144, section 7 (length).
    Cost: a step of the model on texts × beams rows for each token, and the reordering of its state.
    Raises: KindError, ShapeError, ArgumentError for what does not fit, before anything is computed.
    """
    stops = _check("beam_search", tokens, new, stop)
    check_whole("beam_search", "beams", beams, 1)
    check_number("beam_search", "length_penalty", length_penalty, "a finite number")
    texts, device = tokens.shape[0], tokens.device
    logits = model.step(tokens, state)
    if logits.shape[-1] < 2 * beams:
        rule = f"be at most half of the vocabulary of {logits.shape[-1]}"
        raise ArgumentError(must("beam_search", "beams", rule, beams))
    # Beam b of text t is row t · beams + b. All start as the same, so that only the first may go on.
    first_row = torch.arange(0, texts * beams, beams, device=device)[:, None]
    state.reorder(torch.arange(texts, device=device).repeat_interleave(beams))
    open_scores = torch.full((texts, beams), -torch.inf, device=device)
    open_scores[:, 0] = 0
    opened = torch.full((texts, beams, new), NO_TOKEN, device=device)
    ended, ended_scores = opened.clone(), torch.full_like(open_scores, -torch.inf)
    searching = torch.ones(texts, 1, dtype=torch.bool, device=device)
    # An ended beam leaves its place; so many candidates that enough are left, whichever of them end.
    count = beams * (1 + max(1, stops.numel()))
    for length in range(1, new + 1):
        likely = logits.float().log_softmax(-1).view(texts, -1, logits.shape[-1])
        scores = (open_scores[..., None] + likely).flatten(1)
        scores, index = scores.topk(min(count, scores.shape[-1]), -1)
        parent, token = index // logits.shape[-1], index % logits.shape[-1]
        grown = opened.gather(1, parent[..., None].expand(-1, -1, new))
        grown[..., length - 1] = token
        ends = torch.isin(token, stops) if length < new else torch.ones_like(token, dtype=torch.bool)
        # Only what is among the best has ended well.
        final = (scores / length**length_penalty).masked_fill(~ends | ~searching, -torch.inf)[:, :beams]
        ended_scores, best = torch.cat((ended_scores, final), 1).topk(beams, -1)
        ended = torch.cat((ended, grown[:, :beams]), 1).gather(1, best[..., None].expand(-1, -1, new))
        if length == new:
            break
        open_scores, best = scores.masked_fill(ends, -torch.inf).topk(beams, -1)
        opened = grown.gather(1, best[..., None].expand(-1, -1, new))
        searching = searching & (open_scores[:, :1] / length**length_penalty > ended_scores[:, -1:])
        if not bool(searching.any()):
            break
        state.reorder((first_row + parent.gather(1, best)).flatten())
        logits = model.step(opened[..., length - 1].reshape(-1, 1), state)
    lengths = (ended != NO_TOKEN).sum(-1)
    return Beams(ended[..., : int(lengths.max())], lengths, ended_scores)


def _check(function: str, tokens: Tensor, new: int, stop: int | Sequence[int]) -> Tensor:
    """Check what both take, and give the stop tokens."""
    check_integers(function, "tokens", tokens)
    if tokens.ndim != 2 or 0 in tokens.shape:
        fix = "a row for each text, all of one length, or padded on the right and the lengths given to start()"
        raise ShapeError(must(function, "tokens", "have the shape [rows, tokens]", list(tokens.shape), fix))
    check_whole(function, "new", new, 1, "how many tokens to add at most")
    stops = [stop] if isinstance(stop, int) else list(stop)
    for each in stops:
        check_whole(function, "stop", each, 0, "a token, or several")
    return torch.tensor(stops, dtype=torch.long, device=tokens.device)


# Masked words


@dataclass(frozen=True, eq=False)
class Filled:
    """The likeliest tokens of each masked place, the best first; places count through all tokens, row after row."""

    places: Int[Tensor, " masked"]
    tokens: Int[Tensor, "masked best"]
    probabilities: Float[Tensor, "masked best"]


@torch.no_grad()
def fill(
    model: Bert,
    tokens: Int[Tensor, "*batch positions"],
    masked: int,
    *,
    best: int = 5,
    segments: Int[Tensor, "*batch positions"] | None = None,
    mask: Mask | None = None,
) -> Filled:
    """Give the `best` tokens for each place that holds the token `masked`, each place judged by itself.

    Paper: Devlin et al. 2019, arXiv:1810.04805, section 3.1.
    Cost: a call of the model, and 2·masked·vocabulary·width operations.
    Raises: as a call of the model; ArgumentError if no place is masked; UnsupportedError if the model has no
    masked-language head.
    """
    check_integers("fill", "tokens", tokens)
    check_whole("fill", "masked", masked, 0, "the token that stands for a masked word")
    check_whole("fill", "best", best, 1)
    places = (tokens.flatten() == masked).nonzero().squeeze(-1)
    if not places.numel():
        raise ArgumentError(must("fill", "tokens", f"hold the masked token {masked}", "none"))
    hidden = model(tokens, segments, mask=mask).flatten(0, -2)
    likely, found = (
        model.predict_tokens(hidden[places]).float().softmax(-1).topk(min(best, model.config.vocabulary), -1)
    )
    return Filled(places, found, likely)
