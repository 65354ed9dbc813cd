"""Tokens back to text, as they come."""

from collections.abc import Iterable
from functools import cache

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.decoders import DecodeStream


class Decoder:
    """Turn tokens into text as they come: what `feed` returned, joined, is the text so far.

        decoder = Decoder(tokenizer)
        for token in generated:
            print(decoder.feed([token]), end="", flush=True)

    A character whose bytes are spread over several tokens is held back until it is whole. Bytes that no character can
    begin with, as an untrained model writes them, show as `\\xe4`. Special tokens are left out.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self.tokenizer, self.special = tokenizer, special
        self.added = tokenizer.get_added_tokens_decoder()
        self.is_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self.pending = b""
        self.stream = DecodeStream(skip_special_tokens=not special)

    def feed(self, tokens: Iterable[int]) -> str:
        """Give the text that these tokens complete."""
        tokens = [int(token) for token in tokens]
        if not self.is_bytes:
            return "".join(self.stream.step(self.tokenizer, token) or "" for token in tokens)
        self.pending += b"".join(map(self.bytes_of, tokens))
        text, self.pending = _whole(self.pending)
        return text

    def bytes_of(self, token: int) -> bytes:
        """Give the bytes of a token of a byte-level vocabulary; of one that the vocabulary does not hold, none."""
        if token in self.added:
            hidden = self.added[token].special and not self.special
            return b"" if hidden else self.added[token].content.encode()
        return bytes(_bytes()[letter] for letter in self.tokenizer.id_to_token(token) or "")


def text_of(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """Give the text of all tokens, as a `Decoder` tells it."""
    decoder, tokens = Decoder(tokenizer), [int(token) for token in tokens]
    if not decoder.is_bytes:
        return tokenizer.decode(tokens)
    return decoder.feed(tokens) + decoder.pending.decode("utf-8", "backslashreplace")


def token_labels(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    """Give each token a label that can be read: of bytes, the characters that it holds a part of; else its own name."""
    decoder = Decoder(tokenizer, special=True)
    tokens = [int(token) for token in tokens]
    if not decoder.is_bytes:
        return [tokenizer.id_to_token(token) or "" for token in tokens]
    pieces = [decoder.bytes_of(token) for token in tokens]
    shown, character_of = _characters(b"".join(pieces))
    labels, place = [], 0
    for piece in pieces:
        held = character_of[place : place + len(piece)]
        labels.append("".join(shown[held[0] : held[-1] + 1]) if held else "")
        place += len(piece)
    return labels


def _characters(text: bytes) -> tuple[list[str], list[int]]:
    """Give the characters that bytes spell, and for each byte which of them it is part of."""
    shown: list[str] = []
    character_of: list[int] = []
    while (start := len(character_of)) < len(text):
        for size in range(1, 5):
            try:
                shown.append(text[start : start + size].decode())
                break
            except UnicodeDecodeError:
                continue
        else:
            shown.append(text[start : start + 1].decode("utf-8", "backslashreplace"))
            size = 1
        character_of += [len(shown) - 1] * size
    return shown, character_of


def _whole(text: bytes) -> tuple[str, bytes]:
    """Split bytes into the text that is whole and the beginning of a character at the end."""
    for held in range(min(3, len(text)), 0, -1):
        tail = text[-held:]
        try:
            tail.decode()
        except UnicodeDecodeError as error:
            # Python says so of a beginning alone: of a byte that is wrong it says "invalid".
            if error.start == 0 and error.reason == "unexpected end of data":
                return text[:-held].decode("utf-8", "backslashreplace"), tail
    return text.decode("utf-8", "backslashreplace"), b""


@cache
def _bytes() -> dict[str, int]:
    """Give the byte of each letter of GPT-2's alphabet: printable ones are themselves, the rest follow in order."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    shown = [byte for byte in range(256) if chr(byte) in alphabet]
    hidden = [byte for byte in range(256) if chr(byte) not in alphabet]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}
