"""Cards: complete, and every one of them builds."""

import importlib
import pkgutil

import torch

from qkv.core.card import Card, cards


def test_every_card_is_filled_in_and_named_once() -> None:
    found = list(cards())
    assert len(found) > 40 and len({card.name for card in found}) == len(found)
    for card in found:
        assert isinstance(card, Card) and card.equation and card.cost
        assert card.paper or card.kind == "mask"


def test_positions_build_too() -> None:
    for card in cards():
        if card.kind == "position":
            made = card.build()
            whole = torch.tensor([[0, 1]])
            out = made(torch.ones(2, 8)) if card.name.startswith("rotary") else made(whole)
            assert out.shape[-1] == 8


def test_every_file_of_a_mechanism_has_cards() -> None:
    # What others are made of.
    parts = {"qkv.masks.algebra", "qkv.mechanisms.cache", "qkv.mechanisms.one_head"}
    # What other models' dense masks and biases are read as, of no use by hand.
    parts |= {"qkv.masks.spans", "qkv.positions.diagonals"}
    found = set()
    for folder in ("scores", "positions", "masks", "selections", "mechanisms"):
        package = importlib.import_module(f"qkv.{folder}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not getattr(importlib.import_module(module.name), "CARDS", ()):
                found.add(module.name)
    assert found == parts
