"""A word's vectors in two dimensions: what is kept, and what is nearest."""

import numpy as np
import pytest
import torch

from qkv.errors import ArgumentError
from qkv.lens.projection import project


def test_two_components_keep_what_varies_most():
    vectors = torch.tensor([[5.0, 0, 0], [-5, 0, 0], [0, 1, 0], [0, -1, 0.1]])
    seen = project("w", ["a", "b", "c", "d"], [(0, 1)] * 4, [vectors])
    seen.check()
    assert seen.points.shape == (1, 4, 2)
    assert np.abs(seen.points[0, :2, 0]) == pytest.approx([5, 5], abs=0.01)
    assert 0.999 < seen.shares[0] < 1
    # By direction: nothing is nearer than a right angle to the first, and its opposite is the farthest.
    assert seen.nearest[0, 0, -1] == 1 and seen.cosines[0, 0] == pytest.approx([0, 0, -1], abs=1e-6)


def test_two_places_of_one_direction():
    seen = project("w", ["a", "b"], [(0, 1), (0, 1)], [torch.ones(2, 1), torch.zeros(2, 1)])
    seen.check()
    assert seen.points.tolist() == [[[0, 0], [0, 0]]] * 2 and seen.cosines.tolist() == [[[1], [1]], [[0], [0]]]


@pytest.mark.parametrize(("labels", "layers"), [(["a"], 1), (["a", "b"], 0)])
def test_one_place_is_no_picture(labels, layers):
    text = f"^project: labels and vectors must be of two places and a layer, at least; got {len(labels)} and {layers}$"
    with pytest.raises(ArgumentError, match=text):
        project("w", labels, [(0, 1)] * len(labels), [torch.ones(len(labels), 2)] * layers)
