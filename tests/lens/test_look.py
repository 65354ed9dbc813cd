"""The head and the query that are shown first."""

from qkv.lens.look import look_at
from qkv.lens.reading import read


def test_the_heaviest_link_of_words_further_off_chooses(model, tokenizer):
    reading = read(model, tokenizer, "the cat the mouse")
    look = look_at(reading)
    # [CLS] and [SEP] are no words, and a neighbour is no telling link: 1–3, 1–4 and 2–4 remain, either way.
    pairs = [(query, key) for query in range(1, 5) for key in range(1, 5) if abs(query - key) > 1]
    weights = {
        (layer, head, query, key): float(reading.weights(layer)[head, query, key])
        for layer in range(2)
        for head in range(2)
        for query, key in pairs
    }
    assert (look.layer, look.head, *look.link[:2]) == max(weights, key=weights.get)
    assert look.query == look.link[0] and look.link[2] == max(weights.values())


def test_a_text_without_such_a_link_shows_its_sharpest_head(model, tokenizer):
    look = look_at(read(model, tokenizer, "cat mouse"))
    assert look.link is None and look.query is None
    assert (look.layer, look.head) == (look.telling["sharpest"].layer, look.telling["sharpest"].head)


def test_a_long_text_is_looked_at_in_tiles(model, tokenizer, monkeypatch):
    """A layer of all weights may be larger than memory."""
    reading = read(model, tokenizer, "the cat the mouse the cat")
    whole = look_at(reading, word=[2])
    monkeypatch.setattr("qkv.lens.heads.TILE_NUMBERS", 1)
    monkeypatch.setattr("qkv.core.map.AttentionMap.dense", None)
    tiled = look_at(reading, word=[2])
    assert (tiled.layer, tiled.head, tiled.link) == (whole.layer, whole.head, whole.link)
    assert tiled.query == 2 and tiled.link[1] != 2 and tiled.link[2] > 0
