"""Sentences read in batches of one length, so that none is padded, each batch by a thread of its own."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from qkv.errors import UnsupportedError, must
from qkv.lens.running import hidden_states
from qkv.lens.sentences import Sentence

TOKENS = 1024
"""Tokens of a batch, at most: a fourth of them cost more each, and four times as many no less."""


@contextmanager
def readers() -> Iterator[ThreadPoolExecutor]:
    """Give as many threads as torch has, each of which computes by itself.

    Threads that share each operator, as torch's do, wait for one another after each: with another process on one of the
    processors all are as slow as that one. Alone, a thread also gives the same bits on any number of processors.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,), thread_name_prefix="qkv")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # What one thread sets, those that begin after it have too.
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class Coming:
    """Words' vectors of some sentences, on the way: whole once all batches are, each of which tells its sentences."""

    vectors: Float[np.ndarray, "layers words width"]
    batches: list[Future[int]]


def read_words(
    pool: ThreadPoolExecutor, model: nn.Module, sentences: Sequence[Sentence], layers: Sequence[int], width: int
) -> Coming:
    """Begin to read sentences: the vectors of their words after some layers, each the mean of its tokens'.

    Raises: UnsupportedError, from a batch, for vectors that float16 does not hold.
    """
    firsts = np.cumsum([0, *(len(one.words) for one in sentences)])
    vectors = np.empty((len(layers), int(firsts[-1]), width), np.float16)
    by_length: dict[int, list[int]] = {}
    for at, one in enumerate(sentences):
        by_length.setdefault(len(one.tokens), []).append(at)

    def read(chosen: list[int]) -> int:
        _read([sentences[at] for at in chosen], [int(firsts[at]) for at in chosen], model, layers, vectors)
        return len(chosen)

    batches = [
        pool.submit(read, same[start:stop])
        for length, same in sorted(by_length.items())
        for start, stop in _cut(len(same), length)
    ]
    return Coming(vectors, batches)


def _cut(count: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut sentences of one length into batches as even as can be: a small one costs more a token."""
    batches = -(-count // max(1, TOKENS // length))
    for batch in range(batches):
        yield count * batch // batches, count * (batch + 1) // batches


@torch.no_grad()
def _read(
    sentences: Sequence[Sentence],
    firsts: Sequence[int],
    model: nn.Module,
    layers: Sequence[int],
    into: Float[np.ndarray, "layers words width"],
) -> None:
    """Read sentences of one length, and put their words' vectors in place, each sentence's from a row on."""
    hidden = hidden_states(model, torch.tensor([one.tokens for one in sentences]))
    length = len(sentences[0].tokens)
    words = [(row * length, word) for row, one in enumerate(sentences) for word, _ in one.words]
    tokens = [start + token for start, word in words for token in range(word.token, word.after)]
    counts = torch.tensor([word.after - word.token for _, word in words])
    rows = [first + at for first, one in zip(firsts, sentences, strict=True) for at in range(len(one.words))]
    for number, layer in enumerate(layers):
        each = hidden[layer].flatten(0, 1)[tokens].float().cpu()
        mean = torch.segment_reduce(each, "mean", lengths=counts)
        if not (half := mean.half()).isfinite().all():
            rule, fix = "give vectors that float16 holds", f"after layer {layer}; leave it out of layers"
            raise UnsupportedError(must("words", "model", rule, f"{float(mean.abs().max()):.3g}", fix))
        into[number, rows] = half.numpy()
