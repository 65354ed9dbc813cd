"""Ambiguous words in sentences, written for this project: which sense does the word have here?

A line of `english.jsonl` or `chinese.jsonl` holds a word, a sense, a text, and where in it the word stands, in
characters; it may be inflected there.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Probe:
    """A word in a sentence, and its sense there."""

    word: str
    sense: str
    text: str
    start: int
    end: int


def read_probes(language: Literal["english", "chinese"]) -> list[Probe]:
    """Read the set of a language; the sentences of a word stand together."""
    lines = (Path(__file__).parent / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Probe(**json.loads(line)) for line in lines]
