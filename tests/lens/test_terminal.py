"""What the terminal shows fits it, and says what the numbers say."""

import io

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from qkv.lens.heads import habits, telling
from qkv.lens.look import look_at
from qkv.lens.reading import read
from qkv.lens.terminal import comparison_table, console, flow_lines, heads_table, heatmap, telling_table, text_map
from qkv.lens.words import compare


def shown(thing, width=80):
    screen = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    screen.print(thing)
    return screen.file.getvalue()


def test_a_short_text_shows_percents(model, tokenizer):
    reading = read(model, tokenizer, "the cat click the mouse")
    lines = shown(heatmap(reading, 1, 1, 80)).splitlines()
    assert lines[0] == "layer 1, head 1: queries down, keys across"
    assert lines[1].split() == ["[CLS]", "the", "cat", "click", "the", "mouse", "[SEP]"]
    row = lines[2 + reading.labels.index("cat")].split()
    weight = round(100 * reading.weights(1)[1, 2, 1].item())
    assert row[0] == "cat" and str(weight) in row
    assert weight > 90


@pytest.mark.parametrize("count", [1, 3, 12, 25, 60, 61])
def test_every_length_fits_eighty_columns(model, tokenizer, count):
    reading = read(model, tokenizer, " ".join(["鼠标", "cat", "playing"] * 30)[: 4 * count])
    for line in shown(heatmap(reading, 0, 0, 80)).splitlines():
        assert cell_len(line) <= 80


def test_columns_line_up_under_wide_characters(model, tokenizer):
    reading = read(model, tokenizer, "鼠标 cat 鼠")
    lines = shown(heatmap(reading, 0, 0, 80)).splitlines()[2:]
    assert len(lines) == len(reading.labels)
    assert len({cell_len(line) for line in lines}) == 1


def test_a_long_text_says_that_it_is_pooled(model, tokenizer):
    reading = read(model, tokenizer, "cat " * 100)
    assert "102 tokens in 64 × 74 boxes, the largest weight of each" in shown(heatmap(reading, 0, 0, 80), 200)


def test_hostile_tokens_cannot_drive_the_terminal(model, tokenizer):
    reading = read(model, tokenizer, "cat \x1b]0;owned\x07 [bold]mouse[/bold] \u202e")
    table = telling_table(reading, telling(habits(reading)))
    text = shown(heatmap(reading, 0, 0, 80)) + shown(table)
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "bold" in text


def test_a_word_without_end_is_cut_everywhere(model, tokenizer):
    reading = read(model, tokenizer, "cat " + "x" * 100_000 + " mouse")
    look = look_at(reading)
    parts = text_map(reading, look, 80), telling_table(reading, look.telling)
    parts += (
        flow_lines(reading, 0, torch.ones(len(reading.labels)) / len(reading.labels), ()),
        heatmap(reading, 0, 0, 80),
    )
    for part in parts:
        assert len(shown(part)) < 5_000


def test_what_is_unknown_is_listed_once_and_not_without_end(model, tokenizer):
    reading = read(model, tokenizer, " ".join(f"w{at % 30}" for at in range(90)))
    told = " ".join(shown(text_map(reading, look_at(reading), 80)).split())
    assert "it sees [UNK]: w0 w1 w2 " in told and " w19 and 10 more layer " in told


def test_the_telling_heads_are_listed_with_their_links(model, tokenizer):
    reading = read(model, tokenizer, "the cat click the mouse .")
    text = shown(telling_table(reading, telling(habits(reading))))
    assert "most on the previous token" in text and "L1 H1" in text and "cat→the" in text.replace("\n", "")


def test_heads_are_listed_by_a_habit(model, tokenizer):
    heads = habits(read(model, tokenizer, "the cat click the mouse ."))
    lines = shown(heads_table(heads, "previous", count=3)).splitlines()
    assert lines[0] == "Heads by previous, the most first: 3 of 4"
    assert lines[1].split() == ["head", "nats", "self", "prev.", "next", "first", "[SEP]", "same", "broad"]
    best = max(heads, key=lambda head: head.previous)
    assert lines[2].split()[:2] == ["L1", "H1"] and f"{best.previous:.0%}" in lines[2].split()
    assert len(lines) == 5 and all(cell_len(line) <= 80 for line in lines)


def test_a_word_is_compared_layer_by_layer(model, tokenizer):
    readings = [read(model, tokenizer, text) for text in ("the mouse", "click the mouse", "cat")]
    comparison = compare(readings, "mouse")
    text = shown(comparison_table(readings, "mouse", comparison, 80))
    assert "A–B" in text and "embeddings" in text and "after L1" in text
    assert f"{comparison.raw[2, 0, 1]:+.3f}" in text and f"{comparison.centred[2, 0, 1]:+.3f}" in text
    alone = compare(readings[:1], "mouse")
    assert "one place only" in shown(comparison_table(readings[:1], "mouse", alone, 80))


def test_more_pairs_than_fit_are_counted(model, tokenizer):
    readings = [read(model, tokenizer, "mouse " * 5)]
    text = shown(comparison_table(readings, "mouse", compare(readings, "mouse"), 80))
    assert "3 more pairs" in text.replace("\n", " ")
    assert all(cell_len(line) <= 80 for line in text.splitlines())


def test_colours_follow_the_weights(model, tokenizer):
    reading = read(model, tokenizer, "cat mouse")
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    screen.print(heatmap(reading, 1, 1, 80))
    assert "48;2;" in screen.file.getvalue()
    assert torch.isfinite(reading.weights(1)).all()


@pytest.mark.parametrize("columns", ["0", "1", "12"])
def test_a_terminal_too_narrow_is_taken_to_be_wider(model, tokenizer, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    screen = console()
    readings = [read(model, tokenizer, text) for text in ("the mouse play ##ing", "click the mouse")]
    screen.print(heatmap(readings[0], 0, 0, screen.width))
    screen.print(comparison_table(readings, "mouse", compare(readings, "mouse"), screen.width))
    assert screen.width == 24 and "mouse" in capsys.readouterr().out
