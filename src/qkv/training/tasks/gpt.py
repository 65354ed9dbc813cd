"""Train a GPT on texts: each token from those before it."""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer
from torch import Tensor

from qkv.errors import ArgumentError, must
from qkv.masks.documents import documents
from qkv.models.generation import generate, sample
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layers import Positions, no_positions
from qkv.models.pretrained import save_model
from qkv.positions.alibi import alibi
from qkv.positions.rotary import rotary
from qkv.positions.sinusoidal import sinusoidal
from qkv.text.batches import NextTokenBatches
from qkv.text.batching import NextToken
from qkv.text.decoding import Decoder
from qkv.text.tokens import TokenFile
from qkv.training.recipe import Recipe
from qkv.training.tasks.first import First
from qkv.training.tasks.placements import PLACEMENTS

PRESETS = {
    "quick": Recipe(width=128, layers=4, heads=4, steps=400, rate=3e-3, tokens=4096, positions=128, vocabulary=2048),
    "small": Recipe(width=384, layers=6, heads=6, steps=20_000, rate=1e-3, tokens=16384, vocabulary=8192, every=500),
    "base": Recipe(
        width=768, layers=12, heads=12, steps=200_000, rate=6e-4, tokens=65536, positions=1024, vocabulary=50257,
        warm_up=2000, weight_decay=0.1, every=2000,
    ),
}  # fmt: skip

POSITIONS: dict[str, Callable[[Recipe], Positions | None]] = {
    "learned": lambda recipe: None,
    "sinusoidal": lambda recipe: sinusoidal(recipe.width),
    "rotary": lambda recipe: rotary(),
    "alibi": lambda recipe: alibi(recipe.heads),
    "none": lambda recipe: no_positions(),
}
"""What the command line calls the ways to tell a position; GPT-2 learns them."""


class GptTask:
    """Learn to continue texts. Of other positions than learned, or norms after sums, transformers knows none."""

    kind = "gpt"

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        training: TokenFile,
        held_out: TokenFile,
        *,
        position_kind: str = "learned",
        placement: str = "pre",
        seed: int = 0,
    ) -> None:
        if recipe.positions < 2:
            raise ArgumentError(must("train gpt", "positions", "be >= 2", recipe.positions, "a token and the next"))
        self.tokenizer, self.length = tokenizer, recipe.positions
        config = GptConfig(
            tokenizer.get_vocab_size(), recipe.width, recipe.layers, recipe.heads, 4 * recipe.width, recipe.positions,
            dropout=recipe.dropout, attention_dropout=recipe.dropout, embedding_dropout=recipe.dropout,
            end=training.start,
        )  # fmt: skip
        # The paper's own is not said: Hugging Face's layout knows no other.
        placed = None if placement == "pre" else PLACEMENTS[placement]()
        self.model = Gpt(config, positions=POSITIONS[position_kind](recipe), placement=placed)
        self.batches = NextTokenBatches(training, length=recipe.positions, tokens=recipe.tokens, seed=seed)
        whole = NextTokenBatches(held_out, length=recipe.positions, tokens=recipe.tokens, seed=seed)
        self.validation = First(whole)
        self.prompt = held_out.part(0, min(8, recipe.positions // 2, len(held_out.tokens)))

    def loss(self, batch: NextToken) -> tuple[Tensor, int]:
        """Give the sum of the losses over a batch, and over how many tokens it is."""
        some = batch.sequences
        mask = documents(some.lengths)
        total, _ = self.model.loss(some.tokens[None], batch.targets[None], positions=some.positions[None], mask=mask)
        return total, batch.count

    def tokens(self, batch: NextToken) -> int:
        """How many tokens a batch makes the model read."""
        return len(batch.sequences.tokens)

    def sample(self) -> str:
        """Continue the beginning of the held-out text."""
        prompt = self.prompt.to(self.model.tokens.weight.device)[None]
        made = generate(
            self.model, self.model.start(), prompt,
            new=min(48, self.length - len(self.prompt)), choose=sample(temperature=0.8, top_k=50),
        )  # fmt: skip
        decoder = Decoder(self.tokenizer)
        begun = decoder.feed(self.prompt.tolist())
        return f"{begun} ▸ {decoder.feed(int(row[0]) for row in made)}"

    def save(self, folder: Path) -> None:
        """Write the model, for users."""
        save_model(self.model, folder, tokenizer=self.tokenizer)
