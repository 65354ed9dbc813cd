"""How a model is run to be looked at: without dropout, on a batch as its user gives it; qkv's and Hugging Face's."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.errors import KindError, UnsupportedError, must
from qkv.models.bert import Bert
from qkv.models.gpt import Gpt

Batch: TypeAlias = Tensor | Mapping[str, Any] | tuple
"""What a model is called with: tokens, keywords or arguments."""


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Keep dropout off, and gradients."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def run(model: nn.Module, batch: Batch, **more: Any) -> Any:
    """Call a model. Raises: KindError for a batch that is none."""
    if isinstance(batch, Mapping):
        return model(**batch, **more)
    if isinstance(batch, tuple):
        return model(*batch, **more)
    if isinstance(batch, Tensor):
        return model(batch, **more)
    rule = "be a tensor, a dict of keywords or a tuple of arguments"
    raise KindError(must("effects", "batch", rule, type(batch).__name__))


def parts_of(batch: Batch) -> list[Any]:
    """Give what a batch is made of."""
    return [batch] if isinstance(batch, Tensor) else list(batch.values() if isinstance(batch, Mapping) else batch)


def can_repeat(batch: Batch) -> bool:
    """Say whether copies of a batch can stand one after another: it is made of tensors, and of what is for them all."""
    sizes = {0, 1, _examples(batch)}
    return all(
        (part.shape[0] if part.ndim else 0) in sizes
        if isinstance(part, Tensor)
        else part is None or isinstance(part, int | float | str)
        for part in parts_of(batch)
    )


def repeat(batch: Batch, copies: int) -> Batch:
    """Put copies of a batch one after another: a tensor's first dimension counts its examples, or is 1 for them all."""
    examples = _examples(batch)

    def spread(part: Any) -> Any:
        mine = isinstance(part, Tensor) and part.ndim and part.shape[0] == examples
        return torch.cat([part] * copies) if mine else part

    if isinstance(batch, Mapping):
        return {name: spread(part) for name, part in batch.items()}
    return tuple(map(spread, batch)) if isinstance(batch, tuple) else spread(batch)


def _examples(batch: Batch) -> int:
    """Tell how many examples a batch has, by the tensor that is likeliest its tokens: the largest of whole numbers."""
    tensors = [part for part in parts_of(batch) if isinstance(part, Tensor) and part.ndim]
    whole = [part for part in tensors if not part.is_floating_point()]
    largest = max(whole or tensors, key=lambda part: (part.numel(), part.ndim), default=None)
    return 1 if largest is None else largest.shape[0]


def logits(model: nn.Module, batch: Batch) -> Float[Tensor, "batch positions vocabulary"]:
    """Give the logits of every token. Raises: UnsupportedError if the model predicts none."""
    found = run(model, batch)
    if hasattr(model, "predict_tokens"):
        return model.predict_tokens(found)  # type: ignore[operator]
    if getattr(found, "logits", None) is None or found.logits.ndim != 3:
        fix = "measure its vectors: Vector()"
        raise UnsupportedError(must("effects", "model", "predict tokens", type(model).__name__, fix))
    return found.logits


def last_vectors(model: nn.Module, batch: Batch) -> Float[Tensor, "batch positions width"]:
    """Give the vectors that leave the last layer."""
    if isinstance(model, Bert | Gpt):
        return run(model, batch)
    return run(_of_transformers("effects", model), batch, output_hidden_states=True).hidden_states[-1]


def hidden_states(
    model: nn.Module, tokens: Int[Tensor, "batch positions"]
) -> Sequence[Float[Tensor, "batch positions width"]]:
    """Give the vectors that enter the first layer and leave each."""
    if isinstance(model, Bert | Gpt):
        return model.encode(tokens).hidden
    found = _of_transformers("words", model)
    found = found.get_encoder() if found.config.is_encoder_decoder else found
    return found(input_ids=tokens.to(found.device), output_hidden_states=True).hidden_states


def positions_of(model: nn.Module) -> int:
    """Tell how many tokens a model reads at once."""
    config = getattr(model, "config", None)
    found = [getattr(model, "positions", None)]
    found += [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    return next((one for one in found if isinstance(one, int) and one > 0), 512)


def _of_transformers(function: str, model: Any) -> Any:
    if not hasattr(getattr(model, "config", None), "is_encoder_decoder"):
        rule = "be a Bert or Gpt of qkv, or a model of transformers"
        raise UnsupportedError(must(function, "model", rule, type(model).__name__))
    return model
