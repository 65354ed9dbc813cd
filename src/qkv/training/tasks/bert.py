"""Train a BERT on texts: masked tokens, whole words or spans; with the next sentence if asked."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from qkv.errors import ArgumentError, must
from qkv.masks.documents import documents
from qkv.models.bert import Bert, BertConfig
from qkv.models.generation import fill
from qkv.models.pretrained import save_model
from qkv.text.batches import MaskedBatches
from qkv.text.batching import Masked
from qkv.text.objectives import Vocabulary, goes_on, mask_spans, mask_tokens
from qkv.text.tokenizer import BERT_SPECIAL
from qkv.text.tokens import TokenFile
from qkv.training.recipe import Recipe
from qkv.training.tasks.first import First
from qkv.training.tasks.placements import PLACEMENTS

PRESETS = {
    "quick": Recipe(width=128, layers=4, heads=4, steps=600, rate=1e-3, tokens=4096, positions=128, vocabulary=4096),
    "small": Recipe(width=256, layers=4, heads=4, steps=40_000, rate=1e-3, tokens=16384, vocabulary=16384, every=500),
    "base": Recipe(
        width=768, layers=12, heads=12, steps=1_000_000, rate=1e-4, tokens=131072, positions=512, vocabulary=30522,
        warm_up=10_000, schedule="linear", every=5000,
    ),
}  # fmt: skip

OBJECTIVES = ("tokens", "words", "spans")
"""What the command line calls what is hidden."""


class BertTask:
    """Learn to fill in what is hidden."""

    kind = "bert"

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        training: TokenFile,
        held_out: TokenFile,
        *,
        objective: str = "tokens",
        next_sentence: bool = False,
        placement: str = "post",
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.next_sentence = tokenizer, next_sentence
        names = tokenizer.get_vocab()
        if lost := [token for token in BERT_SPECIAL if token not in names]:
            rule = f"have the tokens {', '.join(BERT_SPECIAL)}"
            raise ArgumentError(must("BertTask", "tokenizer", rule, f"no {', '.join(lost)}"))
        special = {token: names[token] for token in BERT_SPECIAL}
        self.mask, self.cls, self.sep = (special[f"[{name}]"] for name in ("MASK", "CLS", "SEP"))
        config = BertConfig(
            tokenizer.get_vocab_size(), recipe.width, recipe.layers, recipe.heads, 4 * recipe.width, recipe.positions,
            dropout=recipe.dropout, attention_dropout=recipe.dropout, padding=special["[PAD]"],
        )  # fmt: skip
        # The paper's own is not said: Hugging Face's layout knows no other.
        self.model = Bert(config, placement=None if placement == "post" else PLACEMENTS[placement]())
        if not next_sentence:
            # What is not trained is not written.
            self.model.pooler = self.model.next_sentence = None
        others = tuple(number for token, number in special.items() if token != "[UNK]")
        vocabulary = Vocabulary(config.vocabulary, self.mask, others)
        inside = None if objective == "tokens" else goes_on(tokenizer)
        self.batches, whole = (
            MaskedBatches(
                file, vocabulary, cls=self.cls, sep=self.sep, length=recipe.positions, tokens=recipe.tokens,
                objective=mask_spans if objective == "spans" else mask_tokens, inside=inside,
                next_sentence=next_sentence, seed=seed,
            )
            for file in (training, held_out)
        )  # fmt: skip
        self.validation = First(whole)
        self.text = held_out[0][: recipe.positions - 2]

    def loss(self, batch: Masked) -> tuple[Tensor, int]:
        """Give the sum of the losses over a batch, and over how many targets it is."""
        some = batch.sequences
        segments = None if batch.segments is None else batch.segments[None]
        hidden = self.model(some.tokens[None], segments, positions=some.positions[None], mask=documents(some.lengths))
        total, _ = self.model.loss_of_masked(hidden, batch.places, batch.targets)
        if batch.not_next is not None:
            first = some.lengths.cumsum(0) - some.lengths
            of_next, texts = self.model.loss_of_next(hidden, batch.not_next, first)
            # Of as much weight as the words, as in the paper: the sum of two means.
            total = total + of_next * (batch.count / max(1, texts))
        return total, batch.count

    def tokens(self, batch: Masked) -> int:
        """How many tokens a batch makes the model read."""
        return len(batch.sequences.tokens)

    def sample(self) -> str:
        """Hide a word of the held-out text, and guess it."""
        text = self.text[:24].tolist()
        hidden = len(text) // 2
        tokens = torch.tensor([[self.cls, *text[:hidden], self.mask, *text[hidden + 1 :], self.sep]])
        found = fill(self.model, tokens.to(self.model.embeddings.tokens.weight.device), self.mask, best=3)
        names = (self.tokenizer.id_to_token(int(token)) for token in found.tokens[0])
        guesses = ", ".join(
            f"{name} {share:.0%}" for name, share in zip(names, found.probabilities[0].tolist(), strict=True)
        )
        before, after = (self.tokenizer.decode(part) for part in (text[:hidden], text[hidden + 1 :]))
        return f"{before} [MASK] {after} ▸ {guesses} (it was {self.tokenizer.id_to_token(text[hidden])})"

    def save(self, folder: Path) -> None:
        """Write the model, for users."""
        save_model(self.model, folder, tokenizer=self.tokenizer)
