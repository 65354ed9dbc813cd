"""Cards: complete, and every one of them builds."""

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
