"""Batches of each objective: what is in them, and that they are the same whoever makes them."""

import pytest
import torch
from torch.utils.data import DataLoader

from qkv.errors import ArgumentError, UnsupportedError
from qkv.text.batches import MaskedBatches, NextTokenBatches, PairBatches
from qkv.text.batching import Sequences
from qkv.text.digits import DigitScenes
from qkv.text.objectives import Vocabulary, goes_on, mask_spans, vocabulary_of
from qkv.text.tokenizer import characters, train_wordpiece
from qkv.text.tokens import token_file

WORDS = Vocabulary(100, mask=4, special=(0, 1, 2, 3, 4))
CLS, SEP = 2, 3


def rows(*lengths, start=5):
    """Sequences of consecutive tokens, so that a token tells where it is from."""
    total = start + torch.tensor(lengths).cumsum(0)
    return Sequences.of(torch.arange(int(end) - length, int(end)) for end, length in zip(total, lengths, strict=True))


@pytest.fixture
def corpus(tmp_path):
    def make(texts, start=None):
        # Letters are numbered in their order, after the special tokens.
        letters = [chr(0x4E00 + index) for index in range(2000)]
        tokenizer = characters(["".join(letters)], special=("[UNK]", "<s>"))
        joined = ["".join(letters[index] for index in text) for text in texts]
        return token_file(tmp_path / "a", joined, tokenizer, identity="x", start=start, progress=False)

    return make


def with_targets(sequences, targets):
    """Each sequence with its own targets."""
    return zip(sequences, targets.split(sequences.lengths.tolist()), strict=True)


def test_windows_hold_every_token_once_an_epoch(corpus):
    file = corpus([range(7), range(7, 20), range(20, 40)])
    batches = NextTokenBatches(file, length=5, tokens=12, seed=3)
    assert len(batches) == 4
    orders = []
    for epoch in range(2):
        made = [batches[epoch * 4 + step] for step in range(4)]
        tokens = torch.cat([batch.sequences.tokens for batch in made])
        assert sorted(tokens.tolist()) == list(range(2, 42))
        orders.append(tokens.tolist())
        assert [len(batch.sequences.tokens) for batch in made] == [10] * 4
        for batch in made:
            for sequence, targets in zip(
                batch.sequences, batch.targets.split(batch.sequences.lengths.tolist()), strict=True
            ):
                assert (sequence.diff() == 1).all()
                last = int(sequence[-1])
                assert targets.tolist() == [*sequence[1:].tolist(), -1 if last in (8, 21, 41) else last + 1]
        assert sum(batch.count for batch in made) == 37
    assert orders[0] != orders[1]


def test_the_last_token_asks_for_the_start_of_the_next_document(corpus):
    file = corpus([range(7), [], range(7, 20)], start="<s>")
    made = NextTokenBatches(file, length=8, tokens=8)
    for step in range(len(made)):
        batch = made[step]
        for sequence, targets in zip(
            batch.sequences, batch.targets.split(batch.sequences.lengths.tolist()), strict=True
        ):
            assert (sequence[1:] != 1).all() and targets[:-1].tolist() == sequence[1:].tolist()
            last = int(sequence[-1])
            assert targets[-1] == (1 if last in (8, 21, 1) else last + 1)
        assert batch.count == 8


def test_whole_words_and_vocabularies():
    tokenizer = train_wordpiece(["talking talked"] * 2, 23)
    vocabulary, inside = vocabulary_of(tokenizer), goes_on(tokenizer)
    assert vocabulary == Vocabulary(23, mask=4, special=(0, 1, 2, 3, 4))
    assert [tokenizer.id_to_token(index).startswith("##") for index in range(23)] == inside.tolist()
    assert inside.any() and not inside.all()
    with pytest.raises(ArgumentError, match=r"^vocabulary_of: tokenizer must have the token \[MASK\]; got none$"):
        vocabulary_of(characters(["a"]))
    with pytest.raises(UnsupportedError, match=r"^goes_on: tokenizer must be a WordPiece tokenizer, .*; got WordLevel"):
        goes_on(characters(["a"]))


def restored(batch):
    tokens = batch.sequences.tokens.clone()
    tokens[batch.places] = batch.targets
    return Sequences(tokens, batch.sequences.lengths)


def test_documents_are_cut_into_pieces_of_like_length():
    batches = MaskedBatches(rows(3, 25, 0, 9), WORDS, cls=CLS, sep=SEP, length=12, tokens=40, seed=1)
    pieces = []
    for step in range(len(batches)):
        batch = batches[step]
        assert batch.segments is None and batch.not_next is None and batch.count > 0
        assert len(batch.sequences.tokens) <= 40
        pieces += [piece.tolist() for piece in restored(batch)]
    assert all(piece[0] == CLS and piece[-1] == SEP for piece in pieces)
    assert sorted(len(piece) - 2 for piece in pieces) == [3, 8, 8, 9, 9]
    assert sorted(token for piece in pieces for token in piece[1:-1]) == list(range(5, 42))


def test_whole_words_are_hidden_together():
    inside = torch.arange(100) % 2 == 0
    batches = MaskedBatches(
        rows(80), WORDS, cls=CLS, sep=SEP, length=82, tokens=82, inside=inside, objective=mask_spans
    )
    places = batches[0].places
    hidden = torch.zeros(82, dtype=torch.bool)
    hidden[places] = True
    # Words are the tokens (5, 6), (7, 8), ...
    assert torch.equal(hidden[1:81:2], hidden[2:81:2]) and hidden.any()


def test_half_of_the_second_parts_come_from_elsewhere():
    file = rows(*[7] * 13)
    batches = MaskedBatches(file, WORDS, cls=CLS, sep=SEP, length=10, tokens=130, next_sentence=True)
    labels = []
    for step in range(200):
        batch = batches[step]
        segments = batch.segments.split(batch.sequences.lengths.tolist())
        for sequence, segment, label in zip(restored(batch), segments, batch.not_next.tolist(), strict=True):
            one, other = sequence[segment == 0], sequence[segment == 1]
            assert one[0] == CLS and one[-1] == other[-1] == SEP
            assert (segment.diff() >= 0).all() and len(one) > 2 and len(other) > 1
            # Documents are 7 tokens long, from 5 on.
            same = (one[1] - 5) // 7 == (other[0] - 5) // 7
            assert bool(same) == (label == 0) and (label or other[0] == one[-2] + 1)
            labels.append(label)
    assert abs(sum(labels) / len(labels) - 0.5) < 0.04


def test_one_document_has_its_own_second_parts():
    batches = MaskedBatches(rows(40), WORDS, cls=CLS, sep=SEP, length=13, tokens=60, next_sentence=True)
    assert {label for step in range(9) for label in batches[step].not_next.tolist()} == {0, 1}


def test_pairs_have_their_start_and_their_end():
    batches = PairBatches(rows(3, 1, 2), rows(2, 2, 4), start=1, end=2, tokens=5)
    assert len(batches) == 3
    found = {}
    for step in range(3):
        pairs = batches[step]
        for source, (target, targets) in zip(pairs.source, with_targets(pairs.target, pairs.targets), strict=True):
            found[tuple(source.tolist())] = target.tolist(), targets.tolist()
        assert pairs.count == sum(pairs.target.lengths)
    assert found == {
        (5, 6, 7, 2): ([1, 5, 6], [5, 6, 2]),
        (8, 2): ([1, 7, 8], [7, 8, 2]),
        (9, 10, 2): ([1, 9, 10, 11, 12], [9, 10, 11, 12, 2]),
    }


def flat(batch):
    """All numbers of a batch."""
    return [
        flat(part) if isinstance(part, Sequences) else None if part is None else part.tolist()
        for part in vars(batch).values()
        if isinstance(part, Sequences | torch.Tensor)
    ]


@pytest.mark.parametrize("kind", ["masked", "next token", "pairs", "pictures"])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(kind, workers, corpus):
    def make():
        if kind == "pictures":
            return DigitScenes(5, size=3, seed=7)
        if kind == "next token":
            return NextTokenBatches(corpus([range(100), range(100, 900)]), length=16, tokens=64, seed=7)
        if kind == "pairs":
            return PairBatches(rows(*range(1, 13)), rows(*range(12, 0, -1)), start=1, end=2, tokens=30, seed=7)
        documents = rows(*range(1, 13))
        return MaskedBatches(documents, WORDS, cls=CLS, sep=SEP, length=9, tokens=30, next_sentence=True, seed=7)

    steps = range(2, 12)
    batches = make()
    loaded = list(DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers))
    assert [flat(batch) for batch in loaded] == [flat(make()[step]) for step in steps]
    assert flat(batches[3]) != flat(batches[3 + len(batches)])


def test_what_is_refused(corpus):
    file = corpus([range(10)])
    with pytest.raises(ArgumentError, match=r"^NextTokenBatches: file must hold at least 11 tokens; got 10 \("):
        NextTokenBatches(file, length=10, tokens=10)
    with pytest.raises(ArgumentError, match=r"^NextTokenBatches: tokens must be >= 9; got 8 \(a batch holds a window"):
        NextTokenBatches(file, length=9, tokens=8)
    with pytest.raises(ArgumentError, match=r"^MaskedBatches: tokens must be >= 9; got 8 \(a batch holds a sequence"):
        MaskedBatches(file, WORDS, cls=CLS, sep=SEP, length=9, tokens=8)
    with pytest.raises(ArgumentError, match=r"^MaskedBatches: length must be >= 5; got 4 \(tokens of a sequence"):
        MaskedBatches(file, WORDS, cls=CLS, sep=SEP, length=4, tokens=8, next_sentence=True)
    with pytest.raises(ArgumentError, match=r"^MaskedBatches: file must hold a document of at least 2 tokens; got"):
        MaskedBatches(rows(1, 1), WORDS, cls=CLS, sep=SEP, length=9, tokens=9, next_sentence=True)
    with pytest.raises(ArgumentError, match=r"^PairBatches: source must have as many sequences as target; got 2 and"):
        PairBatches(rows(1, 1), rows(1), start=1, end=2, tokens=9)
    with pytest.raises(ArgumentError, match=r"^PairBatches: source and target must have at most 5 tokens; got 6 \(pa"):
        PairBatches(rows(1, 1), rows(1, 5), start=1, end=2, tokens=9, longest=5)
