"""What every lab promises, tried on a small size of it."""

import json
import math
from dataclasses import fields

from qkv.labs.lab import Both, Figures, Lab, Progress, means


def check_lab(lab: Lab, small: object) -> Figures:
    """Run one seed of a small size; check texts, figures and the plot; give the figures."""
    assert type(small) is type(lab.size)
    if None not in (lab.quick, lab.full):
        assert type(lab.quick) is type(lab.full) and lab.quick != lab.full
    _check_texts(lab)
    figures = lab.measure(0, small, Progress())
    assert json.loads(json.dumps(figures)) == figures, "JSON holds the figures"
    numbers = means([figures])
    assert set(lab.labels) == set(numbers), "each number has a label"
    assert all(math.isfinite(value) for value in numbers.values())
    assert {threshold.figure for threshold in lab.thresholds} <= set(lab.labels)
    for language in ("en", "zh"):
        getattr(lab.headline, language).format_map(numbers)
        _draw(lab, figures, language)
    for claim in lab.claims:
        assert isinstance(claim.holds(numbers), bool)
    return figures


def same_again(lab: Lab, small: object, figures: Figures) -> None:
    """Check that the same seed gives the same figures, and another gives others."""
    assert lab.measure(0, small, Progress()) == figures
    assert lab.measure(1, small, Progress()) != figures


def _check_texts(lab: Lab) -> None:
    texts = [lab.question, lab.answer, lab.follow_up, lab.trap, lab.headline, lab.caption, *lab.labels.values()]
    texts += [text for claim in lab.claims for text in (claim.says, claim.truth)]
    texts += [threshold.why for threshold in lab.thresholds]
    for text in texts:
        assert isinstance(text, Both)
        for field in fields(text):
            assert getattr(text, field.name).strip()
        assert any("一" <= letter <= "鿿" for letter in text.zh), text
        assert not any("一" <= letter <= "鿿" for letter in text.en), text
    assert lab.rows and lab.claims and lab.papers and lab.thresholds


def _draw(lab: Lab, figures: Figures, language: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    lab.plot(figure, [figures, figures], lambda both: getattr(both, language))
    for axes in figure.axes:
        drawn = axes.lines or axes.collections or axes.images or axes.patches or axes.texts
        assert drawn, "nothing is drawn"
