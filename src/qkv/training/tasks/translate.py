"""Train a translator on pairs: a Transformer, or a recurrent one with any attention."""

from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from qkv.errors import ArgumentError, must
from qkv.models.looking import (
    AdditiveAttention,
    Attention,
    ConcatScore,
    CoverageAttention,
    GeneralScore,
    LocalM,
    LocalP,
    LuongAttention,
    NoAttention,
    SampledAttention,
)
from qkv.models.pretrained import save_model
from qkv.models.recurrent import Decoder, InputFed, LookThenStep, Recurrent, RecurrentConfig, StepThenLook
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.models.translation import translate
from qkv.scores.dot import dot, scaled_dot
from qkv.text.batches import PairBatches
from qkv.text.batching import Pairs, Sequences
from qkv.text.decoding import text_of
from qkv.text.tokenizer import END, START
from qkv.text.tokens import TokenFile
from qkv.training.recipe import Recipe
from qkv.training.tasks.first import First
from qkv.training.tasks.placements import PLACEMENTS

PRESETS = {
    "quick": Recipe(
        width=128, layers=2, heads=4, steps=600, rate=2e-3, tokens=4096, positions=64, vocabulary=512,
        schedule="inverse_square_root", warm_up=100,
    ),
    "small": Recipe(
        width=256, layers=3, heads=4, steps=6000, rate=1e-3, tokens=4096, positions=128, vocabulary=8000,
        schedule="inverse_square_root", warm_up=400, every=500,
    ),
    "base": Recipe(
        width=512, layers=6, heads=8, steps=100_000, rate=7e-4, tokens=25_000, positions=512, vocabulary=37_000,
        schedule="inverse_square_root", warm_up=4000, every=1000,
    ),
}  # fmt: skip

ATTENTIONS: dict[str, tuple[Attention, type[Decoder]]] = {
    "none": (NoAttention(), LookThenStep),
    "additive": (AdditiveAttention(), LookThenStep),
    "dot": (LuongAttention(dot()), StepThenLook),
    "scaled-dot": (LuongAttention(scaled_dot()), StepThenLook),
    "general": (LuongAttention(GeneralScore()), StepThenLook),
    "concat": (LuongAttention(ConcatScore()), StepThenLook),
    "input-feeding": (LuongAttention(GeneralScore()), InputFed),
    "local-m": (LocalM(), StepThenLook),
    "local-p": (LocalP(), StepThenLook),
    "hard": (SampledAttention(), StepThenLook),
    "coverage": (CoverageAttention(), LookThenStep),
}
"""What the command line calls the attentions of a recurrent translator, each with the decoder of its paper."""

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


def translator(
    recipe: Recipe, vocabulary: int, attention: str | None, cell: str = "gru", placement: str = "pre"
) -> Transformer | Recurrent:
    """Make a Transformer (norm first by default), or, with an attention named, a recurrent translator."""
    if attention is None:
        config = TransformerConfig(
            vocabulary, recipe.width, recipe.layers, recipe.heads, 4 * recipe.width,
            dropout=recipe.dropout, smoothing=0.1,
        )  # fmt: skip
        return Transformer(config, placement=PLACEMENTS[placement]())
    made, decoder = ATTENTIONS[attention]
    numbers = RecurrentConfig(vocabulary, recipe.width, recipe.layers, dropout=recipe.dropout, smoothing=0.1)
    return Recurrent(numbers, cell=CELLS[cell], attention=made, decoder=decoder)


class TranslateTask:
    """Learn to say in one language what is said in another."""

    kind = "translate"

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        training: tuple[TokenFile, TokenFile],
        held_out: tuple[TokenFile, TokenFile],
        *,
        attention: str | None = None,
        cell: str = "gru",
        placement: str = "pre",
        seed: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        start, end = (tokenizer.token_to_id(token) for token in (START, END))
        if start is None or end is None:
            raise ArgumentError(must("TranslateTask", "tokenizer", f"have the tokens {START} and {END}", "none"))
        self.start, self.end = start, end
        self.model = translator(recipe, tokenizer.get_vocab_size(), attention, cell, placement)
        self.taught = isinstance(self.model, Recurrent) and self.model.decoder.attention.taught
        self.held_out = held_out
        self.batches, whole = (
            PairBatches(*sides, start=start, end=end, tokens=recipe.tokens, longest=recipe.positions, seed=seed)
            for sides in (training, held_out)
        )
        self.validation = First(whole)

    def loss(self, batch: Pairs) -> tuple[dict[str, Tensor], int]:
        """Give the sum of the losses over a batch, what teaches an attention, and over how many tokens it is."""
        given = batch.source, batch.target, batch.targets
        if not self.taught:
            return {"loss": self.model.loss(*given)[0]}, batch.count
        words, lesson, _ = cast(Recurrent, self.model).losses(*given)
        return {"loss": words, "attention_loss": lesson}, batch.count

    def tokens(self, batch: Pairs) -> int:
        """How many tokens a batch makes the model read."""
        return len(batch.source.tokens) + len(batch.target.tokens)

    def sample(self) -> str:
        """Translate some held-out sources, and say how many come out as they should."""
        source, target = self.held_out
        count = min(32, len(source))
        sources = Sequences.of(torch.cat((source[pair], torch.tensor([self.end]))) for pair in range(count))
        device = self.model.embedding.weight.device
        made = [
            row.tolist() for row in translate(self.model, sources.to(device), start=self.start, stop=self.end, beams=1)
        ]
        right = sum(row == target[pair].tolist() for pair, row in enumerate(made))
        shown = [
            f"{text_of(self.tokenizer, source[pair].tolist())} → {text_of(self.tokenizer, made[pair])}"
            for pair in range(min(2, count))
        ]
        return f"{right} of {count} as they should be: " + "; ".join(shown)

    def save(self, folder: Path) -> None:
        """Write the model, for users."""
        save_model(self.model, folder, tokenizer=self.tokenizer)
