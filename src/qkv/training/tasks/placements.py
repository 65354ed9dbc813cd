"""What the command line calls the places of a norm."""

from collections.abc import Callable

from qkv.models.layers import Placement, post_norm, pre_norm

PLACEMENTS: dict[str, Callable[[], Placement]] = {"pre": pre_norm, "post": post_norm}
"""Before attention and feed-forward layer (GPT-2's), or after each sum (BERT's)."""
