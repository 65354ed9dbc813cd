"""A corpus as sentences with words: tokenised in batches, each word with its tokens."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from tokenizers import Encoding, Tokenizer

from qkv.core.checks import shown
from qkv.errors import KindError, must
from qkv.lens.subwords import word_ranges

PART = 2048
"""Texts that are tokenised, read and written together: what a crash costs."""

LONGEST = 100
"""Characters of a word; what is longer is none, such as a line of noise."""


@dataclass(frozen=True)
class Word:
    """A word in a text: as it is compared, its characters, its first token and the one after its last."""

    written: str
    start: int
    stop: int
    token: int
    after: int


@dataclass(frozen=True)
class Sentence:
    """A text to be read: its tokens, and those of its words that are kept, each with its number in the vocabulary."""

    text: str
    tokens: list[int]
    words: list[tuple[Word, int]]


def plain(tokenizer: Tokenizer, positions: int) -> Tokenizer:
    """Copy a tokenizer, to cut at the model's positions and to pad nothing."""
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_padding()
    copied.enable_truncation(positions)
    return copied


def encoded(texts: Iterable[str], tokenizer: Tokenizer, positions: int) -> Iterator[list[tuple[str, Encoding]]]:
    """Give texts that are not blank with their tokens, a part at a time.

    Raises: KindError for what is no string.
    """

    def checked() -> Iterator[str]:
        for text in texts:
            if not isinstance(text, str):
                raise KindError(must("words", "texts", "hold strings", shown(text)))
            yield text

    # A token is seldom longer than a word, so what is cut off here would not be read.
    held = (text[: LONGEST * positions].encode("utf-8", "replace").decode() for text in checked() if text.strip())
    while some := list(islice(held, PART)):
        yield list(zip(some, tokenizer.encode_batch(some), strict=True))


def words_of(text: str, encoding: Encoding) -> Iterator[Word]:
    """Give the words of a text."""
    spans, special = encoding.offsets, [bool(flag) for flag in encoding.special_tokens_mask]
    for token, after in word_ranges(text, spans, special):
        start, stop = spans[token][0], spans[after - 1][1]
        span = text[start:stop]
        # A tokenizer may count spaces to a word.
        written = span.strip()
        if not special[token] and len(written) <= LONGEST and any(one.isalnum() for one in written):
            start += len(span) - len(span.lstrip())
            yield Word(written.casefold(), start, start + len(written), token, after)
