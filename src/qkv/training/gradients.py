"""Gradients while training: the norm of each layer's, step by step, as lines of JSON and as a picture.

{"step": 12, "embeddings": 0.31, "layers.0": 0.12, "layers.1": 0.15, …}

Where norms stand decides how they begin: with the norm after each sum (Post-LN) the last layers' gradients are far
larger than the first's, which is why that needs its rate to warm up; with the norm before (Pre-LN) they are alike.

Paper: Xiong et al. 2020, arXiv:2002.04745.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from qkv.files import write_whole
from qkv.training.metrics import read_metrics
from qkv.training.states import whole

FILE, PICTURE = "gradients.jsonl", "gradients.svg"
OTHERS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7")
"""The colours of what is no layer: safe for who does not tell red from green."""


def groups(model: nn.Module) -> dict[str, list[str]]:
    """Sort parameters by layer: items of lists of modules, such as `layers.0`, and what stands outside of them."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        # The outermost list that it is in.
        inside = min((one for one in lists if name.startswith(f"{one}.")), key=len, default=None)
        parts = name.split(".")
        layer = parts[0] if inside is None else ".".join(parts[: inside.count(".") + 2])
        found.setdefault(layer, []).append(name)
    return found


@torch.no_grad()
def norms(model: nn.Module) -> dict[str, float]:
    """Give the norm of each layer's gradients; every rank must call it. What has no gradient has norm 0."""
    parameters = dict(model.named_parameters())
    found = []
    for names in groups(model).values():
        gradients = [parameters[name].grad for name in names]
        squares = [whole(each).float().square().sum() for each in gradients if each is not None]
        found.append(torch.stack(squares).sum().sqrt() if squares else torch.zeros(()))
    # One wait for the device, not one a layer.
    return dict(zip(groups(model), torch.stack([one.cpu() for one in found]).tolist(), strict=True))


def brief(found: Mapping[str, float]) -> str:
    """Say the norms of the first, the middle and the last layer of the longest list."""
    lists = [name.rpartition(".")[0] for name in found]
    longest = max(lists, key=lambda one: (one != "", lists.count(one)))
    names = [name for name, inside in zip(found, lists, strict=True) if inside == longest]
    chosen = sorted({0, len(names) // 2, len(names) - 1})
    return "gradients " + " ".join(f"{names[at]} {found[names[at]]:.2g}" for at in chosen)


def draw(folder: Path) -> bool:
    """Draw the norms of a run's layers over its steps into gradients.svg; say whether matplotlib was there to do it."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    lines = list(read_metrics(folder / FILE))
    names = [name for name in lines[0] if name != "step"] if lines else []
    layers, others = ([name for name in names if ("." in name) == numbered] for numbered in (True, False))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "qkv"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot()
        steps = [line["step"] for line in lines]
        for name in names:
            # From light to dark: which layer, also where colours are not told apart.
            place = layers.index(name) / max(1, len(layers) - 1) if name in layers else 0.5
            shade = str(0.75 - 0.75 * place) if name in layers else OTHERS[others.index(name) % len(OTHERS)]
            style = "-" if name in layers else (0, (2, 1 + 2 * (others.index(name) % 3)))
            values = [max(line.get(name, 0.0), 1e-12) for line in lines]
            axes.plot(steps, values, color=shade, linestyle=style, linewidth=1.2, label=name)
        axes.set(yscale="log", xlabel="step", ylabel="norm of the gradient")
        if names:
            axes.legend(fontsize="x-small", ncols=2)
        temporary = folder / f".{PICTURE}.tmp"
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    write_whole("train", folder / PICTURE, temporary.read_bytes(), overwrite=True)
    temporary.unlink()
    return True
