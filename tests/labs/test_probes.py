"""The probe sets: enough of each, offsets that fit, and sentences of a sense that share neither frame nor place."""

import re
from collections import defaultdict
from itertools import pairwise

import pytest

from qkv.labs.probes import Probe, read_probes

WORDS = {
    "english": {"mouse", "bank", "java", "apple", "crane", "bat", "spring", "pitcher"},
    "chinese": {"苹果", "包袱", "打", "意思", "杜鹃"},
}
LEAST = {"english": 24, "chinese": 12}
languages = pytest.mark.parametrize("language", ["english", "chinese"])


def senses(language: str) -> dict[tuple[str, str], list[Probe]]:
    found = defaultdict(list)
    for probe in read_probes(language):
        found[probe.word, probe.sense].append(probe)
    return found


def parts(language: str, text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower()) if language == "english" else list(text)


@languages
def test_there_are_enough(language):
    counts = defaultdict(int)
    for (word, _), probes in senses(language).items():
        counts[word] += 1
        assert len(probes) >= 8, word
    assert len(counts) >= LEAST[language] and counts.keys() >= WORDS[language]
    assert set(counts.values()) <= {2, 3}
    order = [probe.word for probe in read_probes(language)]
    assert sum(one != other for one, other in pairwise(order)) == len(counts) - 1


@languages
def test_the_offsets_are_the_words(language):
    for probe in read_probes(language):
        form = probe.text[probe.start : probe.end].lower()
        assert form.startswith(probe.word) or (probe.word, form) == ("mouse", "mice")
        # Whole words: an inflection is part of it.
        if language == "english":
            assert not re.match(r"\w", probe.text[probe.end :]) and not re.search(r"\w$", probe.text[: probe.start])
            assert len(form) <= len(probe.word) + 3
        else:
            assert form == probe.word


@languages
def test_no_sentence_stands_twice(language):
    texts = [re.sub(r"\W", "", probe.text.lower()) for probe in read_probes(language)]
    assert len(set(texts)) == len(texts)


@languages
def test_no_frame_is_shared(language):
    for sense, probes in senses(language).items():
        beside, openings = [], []
        for probe in probes:
            before = parts(language, probe.text[: probe.start])
            beside.append((before[-1:], parts(language, probe.text[probe.end :])[:1]))
            openings.append(parts(language, probe.text)[: 3 if language == "english" else 4])
        for frames in (beside, openings):
            assert all(frames.count(frame) == 1 for frame in frames), (sense, frames)


@languages
def test_length_and_place_vary(language):
    for sense, probes in senses(language).items():
        lengths = [len(probe.text) for probe in probes]
        places = [probe.start / len(probe.text) for probe in probes]
        assert max(lengths) >= 2 * min(lengths), (sense, lengths)
        assert min(places) < 0.25 and max(places) > 0.6, (sense, places)


def test_english_words_are_inflected():
    inflected = {
        probe.word for probe in read_probes("english") if probe.text[probe.start : probe.end].lower() != probe.word
    }
    # Java, Mercury and Python have no plural.
    assert len(inflected) >= 20
