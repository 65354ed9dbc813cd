"""`make docs`: write docs/mechanisms.md, the table of everything that qkv has, from the cards."""

from pathlib import Path

from qkv.core.card import Card, cards

TITLES = {
    "score": "Scores: how a query meets a key · 打分",
    "bias": "Biases: what position adds · 偏置",
    "position": "Positions: what is done to the input · 位置",
    "mask": "Masks: which pairs may meet · 掩码",
    "selection": "Selections: how scores become weights · 选择",
    "mechanism": "Mechanisms: what is built from them · 机制",
}

HEAD = """# Every mechanism · 全部机制

Written by `make docs` from the cards that end each file. n queries, m keys, d the width of a head.
"""


def link(card: Card) -> str:
    """Link the file that a card ends."""
    file = card.build.__module__.removeprefix("qkv.").replace(".", "/") + ".py"
    return f"[{file}](../src/qkv/{file})"


def page() -> str:
    """Write the page."""
    everything = list(cards())
    parts = [HEAD]
    for kind, title in TITLES.items():
        parts.append(f"## {title}\n\n| name | equation | cost | paper | file |\n|---|---|---|---|---|")
        rows = [
            (card.name, card.equation, card.cost, card.paper or "—", link(card))
            for card in everything
            if card.kind == kind
        ]
        lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts[-1] = "\n".join([parts[-1], *lines]) + "\n"
    return "\n".join(parts)


if __name__ == "__main__":
    target = Path(__file__).parent / "mechanisms.md"
    target.write_text(page(), encoding="utf-8")
    print(f"docs: wrote {target}")
