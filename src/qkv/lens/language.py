"""English or Chinese: what a command says in the terminal, each text beside its translation."""

from collections.abc import Callable
from typing import TypeAlias

from qkv.errors import ArgumentError, must

LANGUAGES = ("en", "zh")


Say: TypeAlias = Callable[[str, str], str]
"""Chooses between a text in English and the same in Chinese."""


def english(en: str, zh: str) -> str:
    """Speak English."""
    return en


def chinese(en: str, zh: str) -> str:
    """Speak Chinese."""
    return zh


def sayer(function: str, language: str | None) -> Say:
    """Speak the language that `--lang` names; English by default.

    Raises: ArgumentError for another.
    """
    if language not in (None, *LANGUAGES):
        raise ArgumentError(must(function, "--lang", f"be one of {', '.join(LANGUAGES)}", repr(language)))
    return chinese if language == "zh" else english
