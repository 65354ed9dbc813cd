"""A word's vectors at many places, seen in two dimensions, and each place's nearest in all of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import ArgumentError, must
from qkv.lens.page.view import Projection

NEAREST = 10


@torch.no_grad()
def project(
    word: str,
    labels: Sequence[str],
    marks: Sequence[tuple[int, int]],
    vectors: Sequence[Float[Tensor, "places width"]],
) -> Projection:
    """Project vectors onto their two principal components, layer by layer, and find each one's nearest by cosine.

    `labels` are the sentences, `marks` says where the word stands in each; `vectors` holds a layer each.

    Cost: O(places²·width) a layer.
    Raises: ArgumentError unless there are two places and a layer.
    """
    if len(labels) < 2 or not vectors:
        got = f"{len(labels)} and {len(vectors)}"
        raise ArgumentError(must("project", "labels and vectors", "be of two places and a layer, at least", got))
    points, shares, nearest, cosines = [], [], [], []
    for layer in vectors:
        centred = layer.float() - layer.float().mean(0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
        two = (left * values)[:, :2]
        points.append(torch.nn.functional.pad(two, (0, 2 - two.shape[1])))
        shares.append(float(values[:2].square().sum() / values.square().sum().clamp(min=1e-30)))
        near = torch.nn.functional.normalize(layer.float(), dim=-1)
        found = (near @ near.T).fill_diagonal_(-torch.inf).topk(min(NEAREST, len(labels) - 1))
        nearest.append(found.indices)
        cosines.append(found.values)
    drawn, near_by, by = (torch.stack(parts).cpu().numpy() for parts in (points, nearest, cosines))
    return Projection(word, labels, marks, drawn, shares, near_by, by)
