"""Sentences are read in batches of one length, each by a thread of its own, and none of them changes another."""

import threading

import pytest
import torch

from qkv.errors import UnsupportedError
from qkv.lens import batches
from qkv.lens.batches import read_words, readers
from qkv.lens.sentences import Sentence, words_of

TEXTS = ["the cat", "playing mouse", "click", "the mouse", "click the mouse .", "mouse cat", "cat the"]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def sentences(tokenizer):
    return [
        Sentence(text, encoding.ids, [(word, 0) for word in words_of(text, encoding)])
        for text in TEXTS
        for encoding in [tokenizer.encode(text)]
    ]


def test_a_word_has_the_mean_of_its_tokens_read_alone(bert, sentences, threads):
    with readers() as pool:
        coming = read_words(pool, bert, sentences, [0, 2], 8)
        assert sum(batch.result() for batch in coming.batches) == len(TEXTS)
    row = 0
    for one in sentences:
        with torch.no_grad():
            hidden = bert.encode(torch.tensor([one.tokens])).hidden
        for word, _ in one.words:
            for number, layer in enumerate((0, 2)):
                expected = hidden[layer][0, word.token : word.after].mean(0)
                torch.testing.assert_close(
                    torch.from_numpy(coming.vectors[number, row]).float(), expected, atol=2e-3, rtol=1e-3
                )
            row += 1
    assert row == coming.vectors.shape[1] == 14


def test_batches_are_of_one_length_and_even(bert, sentences, monkeypatch):
    monkeypatch.setattr(batches, "TOKENS", 12)
    read = []

    def seen(model, tokens):
        read.append(tuple(tokens.shape))
        return bert.encode(tokens).hidden

    monkeypatch.setattr(batches, "hidden_states", seen)
    with readers() as pool:
        for batch in read_words(pool, bert, sentences, [0], 8).batches:
            batch.result()
    # Four of 4 tokens are two and two, not three and one.
    assert sorted(read) == [(1, 3), (1, 5), (1, 6), (2, 4), (2, 4)]


def test_each_thread_computes_by_itself_and_torchs_are_as_they_were(threads):
    meet = threading.Barrier(threads)

    def work(_):
        meet.wait(timeout=30)
        return threading.get_ident(), torch.get_num_threads()

    with readers() as pool:
        found = list(pool.map(work, range(threads)))
    assert len({ident for ident, _ in found}) == threads and {count for _, count in found} == {1}
    assert torch.get_num_threads() == threads
    later = []
    other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert later == [threads]


def test_what_is_not_begun_is_left_out_after_an_interrupt(threads):
    begun, go = threading.Semaphore(0), threading.Event()
    with pytest.raises(KeyboardInterrupt), readers() as pool:
        left = [pool.submit(lambda: (begun.release(), go.wait(timeout=30))) for _ in range(threads + 5)]
        for _ in range(threads):
            begun.acquire(timeout=30)
        threading.Timer(0.2, go.set).start()
        raise KeyboardInterrupt
    assert sum(one.cancelled() for one in left) == 5


def test_vectors_that_float16_does_not_hold_are_said(bert, sentences):
    with torch.no_grad():
        bert.embeddings.norm.weight.mul_(1e6)
    rule = r"give vectors that float16 holds; got .* \(after layer 0; leave it out of layers\)"
    with pytest.raises(UnsupportedError, match=rf"^words: model must {rule}"), readers() as pool:
        for batch in read_words(pool, bert, sentences, [0], 8).batches:
            batch.result()
