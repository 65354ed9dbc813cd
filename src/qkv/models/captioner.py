"""A captioner, from top to bottom: its numbers, the grid of features, a step of the decoder, the losses.

    image → convolutions → grid of features a → for each word: attention(h, a) → context → LSTM → next word

Paper: Xu et al. 2015, arXiv:1502.03044 (Show, Attend and Tell).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.core.checks import check_dtype, check_indices, check_number, check_rate, check_whole
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.mechanisms.bahdanau import Annotations, Bahdanau
from qkv.mechanisms.hard import Choice, HardAttention, MovingBaseline, reinforce
from qkv.models.translation import Packed, check_sequences, check_targets
from qkv.scores.additive import Additive

SHRINK = 4
"""Each side of the grid of features is this many times shorter than the picture's."""


@dataclass(frozen=True)
class CaptionerConfig:
    """The numbers of a captioner. `height` and `width` are the picture's, in pixels, multiples of 4.

    `double` is λ of the doubly stochastic regularisation (soft attention), `entropy` λ_e and `reward` λ_r of hard
    attention. `expected` is the share of pictures for which hard attention, while it trains, takes the expected context
    in place of a draw.

    Raises: KindError, ArgumentError for a number out of range.
    """

    vocabulary: int
    height: int
    width: int
    channels: int = 64
    embedding: int = 64
    hidden: int = 128
    attention_width: int = 64
    dropout: float = 0.1
    double: float = 1.0
    entropy: float = 0.01
    expected: float = 0.5
    reward: float = 1.0
    padding: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "channels", "embedding", "hidden", "attention_width"):
            check_whole("CaptionerConfig", name, getattr(self, name), 1)
        for name in ("height", "width"):
            check_whole("CaptionerConfig", name, getattr(self, name), SHRINK)
            if getattr(self, name) % SHRINK:
                raise ArgumentError(must("CaptionerConfig", name, f"be a multiple of {SHRINK}", getattr(self, name)))
        check_rate("CaptionerConfig", "dropout", self.dropout)
        check_rate("CaptionerConfig", "expected", self.expected)
        check_number("CaptionerConfig", "double", self.double, "a finite number")
        check_number("CaptionerConfig", "entropy", self.entropy, "a finite number")
        check_number("CaptionerConfig", "reward", self.reward, "a finite number")
        check_whole("CaptionerConfig", "padding", self.padding, 0, "the token that fills a batch up")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid of features."""
        return self.height // SHRINK, self.width // SHRINK


@dataclass(frozen=True)
class SoftRegions:
    """Makes soft attention: every place, by its weight."""

    def __call__(self, config: CaptionerConfig) -> Bahdanau:
        """Make it."""
        return Bahdanau(config.hidden, config.channels, config.attention_width)


@dataclass(frozen=True)
class HardRegions:
    """Makes hard attention: one place, drawn by the weights while training, the likeliest otherwise."""

    def __call__(self, config: CaptionerConfig) -> HardAttention:
        """Make it."""
        return HardAttention(Additive(config.hidden, config.channels, config.attention_width))


Looking: TypeAlias = Bahdanau | HardAttention
"""What chooses where to look."""


class Features(nn.Module):
    """The picture as a grid of feature vectors, each of a square of 16 pixels, with its row and column added.

    The vectors are not brought to one length: that of a cell that shows nothing would be the length of all others, and
    such cells, which are most, would drown what there is to read until the attention is learned.
    """

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        half, whole = max(1, config.channels // 2), config.channels
        rows, columns = config.grid
        self.convolutions = nn.Sequential(
            *_convolve(1, half),
            *_convolve(half, half),
            nn.MaxPool2d(2),
            *_convolve(half, whole),
            *_convolve(whole, whole),
            nn.MaxPool2d(2),
        )
        # As large as the features, so that the order of reading can be seen beside what is read.
        self.rows = nn.Parameter(torch.randn(rows, 1, whole))
        self.columns = nn.Parameter(torch.randn(columns, whole))

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch cells channels"]:
        """Give the grid row by row."""
        grid = self.convolutions(images).movedim(1, -1)
        return (grid + self.rows + self.columns).flatten(1, 2)


def _convolve(inside: int, outside: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    # The paper's convolutions come trained from ImageNet; from nothing they learn with batch normalisation (Ioffe and
    # Szegedy 2015, arXiv:1502.03167).
    made = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return made, nn.BatchNorm2d(outside), nn.ReLU()


@dataclass(eq=False)
class Captioning:
    """Where a caption stands: what is looked at, and the decoder's state. It is advanced in place."""

    memory: Float[Tensor, "rows cells channels"]
    annotations: Annotations | None
    hidden: Float[Tensor, "rows hidden"]
    cell: Float[Tensor, "rows hidden"]
    weights: list[Float[Tensor, "rows cells"]]
    """Where each step looked."""

    def reorder(self, rows: Int[Tensor, " rows2"]) -> None:
        """Let row i become what row `rows[i]` was."""
        self.memory, self.hidden, self.cell = self.memory[rows], self.hidden[rows], self.cell[rows]
        self.weights = [row[rows] for row in self.weights]
        if self.annotations is not None:
            before = self.annotations
            self.annotations = replace(before, memory=before.memory[rows], key=before.key[rows])


class Captioner(nn.Module):
    """Show, attend and tell: at each word a decoder looks at a grid of features of the picture.

    `attention` makes what chooses where: `SoftRegions()` or `HardRegions()`. Soft attention is pressed to look
    everywhere about once by λ Σᵢ (1 − Σₜ α_ti)² (doubly stochastic). Hard attention learns by REINFORCE, with a moving
    baseline and an entropy bonus; its reward is the log-likelihood of the words from a choice on, as those before do
    not depend on it. A share of the pictures takes the expected context Σᵢ αᵢ aᵢ instead: through it the loss teaches
    where to look.

    Paper: Xu et al. 2015, arXiv:1502.03044.
    Cost: the convolutions, O(height·width·channels²); then for each word O(cells·attention).
    """

    def __init__(self, config: CaptionerConfig, attention: Callable[[CaptionerConfig], Looking] | None = None) -> None:
        super().__init__()
        self.config = config
        self.features = Features(config)
        attention = SoftRegions() if attention is None else attention
        self.choices = {"attention": attention}
        self.attention = attention(config)
        if not isinstance(self.attention, Looking):
            rule, fix = "make Bahdanau or HardAttention", "SoftRegions() or HardRegions()"
            raise KindError(must("Captioner", "attention", rule, type(self.attention).__name__, fix))
        self.start_hidden = nn.Linear(config.channels, config.hidden)
        self.start_cell = nn.Linear(config.channels, config.hidden)
        self.tokens = nn.Embedding(config.vocabulary, config.embedding)
        self.gate = nn.Linear(config.hidden, 1)
        self.cell = nn.LSTMCell(config.embedding + config.channels, config.hidden)
        self.from_hidden = nn.Linear(config.hidden, config.embedding)
        self.from_context = nn.Linear(config.channels, config.embedding, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.embedding, config.vocabulary)
        self.baseline = MovingBaseline()

    def start(self, images: Float[Tensor, "batch 1 height width"]) -> Captioning:
        """Look at pictures and stand before the first word.

        Raises: KindError, ShapeError unless they are floating, grey and of the config's size.
        """
        self._check_images(images)
        memory = self.features(images)
        mean = memory.mean(1)
        annotations = self.attention.read(memory) if isinstance(self.attention, Bahdanau) else None
        return Captioning(memory, annotations, self.start_hidden(mean).tanh(), self.start_cell(mean).tanh(), [])

    def step(self, tokens: Int[Tensor, "rows new"], state: Captioning) -> Float[Tensor, "rows vocabulary"]:
        """Read the tokens and give the logits of the next; the state goes on.

        Raises: KindError, ArgumentError for tokens that are no integers or not in the vocabulary.
        """
        check_indices("Captioner", "tokens", tokens, self.config.vocabulary)
        for token in tokens.unbind(1):
            logits, _ = self._step(token, state)
        return logits

    def _step(self, token: Tensor, state: Captioning, expected: Tensor | None = None) -> tuple[Tensor, Choice | None]:
        query, choice = state.hidden.unsqueeze(1), None
        if state.annotations is not None:
            context, seen = state.annotations.with_map(query)
        else:
            context, choice = self.attention(query, state.memory, sample=self.training)
            seen = choice.map
        state.weights.append(seen.dense()[:, 0, 0])
        context = context.squeeze(1)
        if expected is not None:
            mean = (state.weights[-1].unsqueeze(1) @ state.memory).squeeze(1)
            context = torch.where(expected.unsqueeze(1), mean, context)
        if choice is None:
            context = self.gate(state.hidden).sigmoid() * context
        word = self.tokens(token)
        read = self.dropout(torch.cat((word, context), -1))
        state.hidden, state.cell = self.cell(read, (state.hidden, state.cell))
        made = word + self.from_hidden(self.dropout(state.hidden)) + self.from_context(context)
        return self.output(self.dropout(made.tanh())), choice

    def forward(
        self, images: Float[Tensor, "batch 1 height width"], tokens: Int[Tensor, "batch steps"]
    ) -> tuple[Float[Tensor, "batch steps vocabulary"], Float[Tensor, "batch steps cells"]]:
        """Give the logits of each next word, teacher forced, and where each step looked.

        Raises: as `start` and `step`.
        """
        logits, weights, _, _ = self._run(images, tokens)
        return logits, weights

    def loss(
        self,
        images: Float[Tensor, "batch 1 height width"],
        target: Packed,
        targets: Int[Tensor, " target"],
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the losses of the targets that are not negative, and count them; what teaches the attention is added.

        While training hard attention, the moving baseline sees the rewards of this call.

        Raises: as a call; ShapeError unless there is a target for each token of `target`.
        """
        words, lesson, count = self.losses(images, target, targets)
        return words + lesson, count

    def losses(
        self,
        images: Float[Tensor, "batch 1 height width"],
        target: Packed,
        targets: Int[Tensor, " target"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], int]:
        """Give the two parts of `loss` apart, and the count: the words' losses, and what teaches the attention.

        The first is what can be compared with a loss that is measured without training; there the second is 0.

        Raises: as `loss`.
        """
        check_targets("Captioner.loss", target, targets)
        check_sequences("Captioner.loss", "target", target, self.config.vocabulary)
        shape, places = (len(target.lengths), target.longest), (target.rows, target.positions)
        tokens = target.tokens.new_full(shape, self.config.padding).index_put(places, target.tokens)
        targets = targets.new_full(shape, -1).index_put(places, targets)
        logits, weights, choices, expected = self._run(images, tokens)
        each = F.cross_entropy(logits.movedim(-1, 1), targets.long(), ignore_index=-1, reduction="none")
        real = targets >= 0
        lesson = self._lesson(each.detach(), real, weights, choices, expected) if self.training else each.new_zeros(())
        return each.sum(), lesson, int(real.sum())

    def _lesson(
        self, each: Tensor, real: Tensor, weights: Tensor, choices: list[Choice], expected: Tensor | None
    ) -> Tensor:
        """Give what teaches the attention: to look everywhere about once, or where the words become likely."""
        if not choices:
            seen = (weights * real[..., None]).sum(1)
            return self.config.double * ((1 - seen) ** 2).sum()
        if expected is not None:
            real = real & ~expected.unsqueeze(1)
        from_here = -each.flip(1).cumsum(1).flip(1)[real]
        if not len(from_here):
            return each.new_zeros(())
        index, log_prob, entropy = (
            torch.cat([getattr(choice, name) for choice in choices], 1)[real][None]
            for name in ("index", "log_prob", "entropy")
        )
        one = Choice(index, log_prob, entropy, choices[-1].map)
        rewards, expected_reward = self.config.reward * from_here[None], self.config.reward * self.baseline.value
        surrogate = reinforce(one, rewards, expected_reward, entropy=self.config.entropy)
        self.baseline.update(from_here)
        return surrogate * len(from_here)

    def _run(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, list[Choice], Tensor | None]:
        self._check_images(images)
        check_indices("Captioner", "tokens", tokens, self.config.vocabulary)
        if tokens.ndim != 2 or len(tokens) != len(images) or not tokens.shape[1]:
            rule = f"have the shape [{len(images)}, steps], a row for each picture"
            raise ShapeError(must("Captioner", "tokens", rule, list(tokens.shape)))
        state = self.start(images)
        expected = None
        if self.training and state.annotations is None:
            expected = torch.rand(len(images), device=images.device) < self.config.expected
        steps = [self._step(token, state, expected) for token in tokens.unbind(1)]
        choices = [choice for _, choice in steps if choice is not None]
        return torch.stack([logits for logits, _ in steps], 1), torch.stack(state.weights, 1), choices, expected

    def _check_images(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise KindError(must("Captioner", "images", "be a tensor", type(images).__name__))
        shape = (1, self.config.height, self.config.width)
        if images.ndim != 4 or images.shape[1:] != shape:
            rule = f"have the shape [batch, 1, {self.config.height}, {self.config.width}]"
            raise ShapeError(must("Captioner", "images", rule, list(images.shape)))
        check_dtype("Captioner", "images", images, self.output.weight)
