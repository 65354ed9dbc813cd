"""Models of our own making on the disk: the names are ours, and config.json spells out what a model was given."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import partial
from types import NoneType
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from qkv.errors import ArgumentError, UnsupportedError, must
from qkv.models import captioner, looking, recurrent
from qkv.models.bert import Bert, BertConfig
from qkv.models.captioner import Captioner, CaptionerConfig
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layers import Block, NoPositions, PostNorm, PreNorm
from qkv.models.layouts.layout import Layout
from qkv.models.norms import BatchNorm, LayerNorm, RMSNorm, batch_norm, layer_norm, rms_norm
from qkv.models.recurrent import Recurrent, RecurrentConfig
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.positions.alibi import Alibi, alibi
from qkv.positions.embeddings import LearnedPositions
from qkv.positions.relative import T5Relative
from qkv.positions.rotary import Rotary, rotary
from qkv.positions.sinusoidal import Sinusoidal, sinusoidal
from qkv.scores.additive import Additive, Concat
from qkv.scores.bilinear import Bilinear
from qkv.scores.dot import Dot, scaled_dot
from qkv.scores.location import Location
from qkv.selections.hard import Hard, hard
from qkv.selections.sigmoid import Sigmoid, sigmoid
from qkv.selections.soft import Softmax
from qkv.selections.sparse import Entmax15, Sparsemax
from qkv.selections.topk import TopK, topk

_SIZES: dict[type, Callable[[Any], dict[str, object]]] = {
    Additive: lambda score: dict(zip(("query", "key", "hidden"), _additive(score), strict=True)),
    Concat: lambda score: dict(zip(("query", "key", "hidden"), _additive(score), strict=True)),
    Bilinear: lambda score: {"query": score.weight.shape[1], "key": score.weight.shape[0]},
    Location: lambda score: {"query": score.weight.shape[1], "keys": score.weight.shape[0]},
    LearnedPositions: lambda table: {"rows": table.weight.shape[0], "width": table.weight.shape[1]},
    T5Relative: lambda bias: {
        "heads": bias.heads,
        "buckets": bias.weight.shape[0],
        "max_distance": bias.max_distance,
        "after": bias.after,
    },
}
"""What makes a part that has parameters again."""


_MAKERS: dict[type, Callable[..., Any]] = {
    Rotary: rotary, Sinusoidal: sinusoidal, Alibi: alibi, LayerNorm: layer_norm, RMSNorm: rms_norm,
    BatchNorm: batch_norm, Dot: scaled_dot, Hard: hard, Sigmoid: sigmoid, TopK: topk,
}  # fmt: skip
"""What makes a part and checks what it is made with; any other part does that itself."""


def _additive(score: Additive) -> tuple[int, int, int]:
    hidden, both = score.weight.shape
    return score.query_width, both - score.query_width, hidden


class OwnLayout(Layout):
    """What the layouts of our own models share: a model is made of its config and of choices, by name."""

    config_of: ClassVar[type]
    roles: ClassVar[Mapping[str, tuple[type, ...]]]
    """What may stand in config.json for each choice of the model: a file names nothing else to be made."""

    inner: ClassVar[tuple[type, ...]]
    """What may stand inside of those."""

    bare: ClassVar[tuple[type, ...]] = ()
    """Parts that are given themselves, not made."""

    fields: ClassVar = {}
    supported: ClassVar = {}

    def plain(self, function: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def config(self, found: Mapping[str, Any]) -> Any:
        self.choices(found)
        names = [field.name for field in fields(self.config_of)]
        missing = [name for name in names if name not in found]
        if missing:
            raise ArgumentError(must(self.config_of.__name__, "the numbers", "all be given", f"no {missing[0]}"))
        return self.config_of(**{name: found[name] for name in names})

    def build(self, config: Any, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        return self.model(config, **self.choices(found))

    def theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # A folder has one dtype: what is counted (BatchNorm's batches) is written in it too.
        dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
        return {name: x if x.is_floating_point() else x.to(dtype) for name, x in state.items()}

    def ours(self, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kinds = {name: None if x.is_floating_point() else x.dtype for name, x in state.items()}
        return {name: tensors[name].to(kind) if kind else tensors[name] for name, kind in kinds.items()}

    def written(self, function: str, model: Any) -> tuple[dict[str, object], dict[str, Tensor]]:
        choices = {name: self.spelled(function, name, part) for name, part in self.given(model).items()}
        config = {"model_type": self.kind, **asdict(model.config), **self.placed(choices)}
        return config, self.theirs(model.state_dict())

    def placed(self, choices: dict[str, object]) -> dict[str, object]:
        """Say where in config.json the spelled choices stand."""
        return choices

    @abstractmethod
    def choices(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Make what the model is given. Raises: KindError, ArgumentError for what names no part."""

    @abstractmethod
    def given(self, model: Any) -> Mapping[str, object]:
        """Give what the model was given."""

    def spelled(self, function: str, name: str, part: object) -> object:
        """Spell a part out: {"part": its name, and what it is made with}. Raises: UnsupportedError for any other."""
        if part is None or isinstance(part, bool | int | float):
            return part
        if isinstance(part, type) and part in self.parts:
            return {"part": part.__name__}
        if type(part) in self.parts:
            sizes = _SIZES.get(type(part))
            if sizes is not None:
                return {"part": type(part).__name__, **sizes(part)}
            if is_dataclass(part):
                inner = {field.name: getattr(part, field.name) for field in fields(part)}
                return {"part": type(part).__name__} | {
                    field: self.spelled(function, name, value) for field, value in inner.items()
                }
        rule = "be one that config.json can name: " + ", ".join(kind.__name__ for kind in self.parts)
        raise UnsupportedError(must(function, name, rule, part))

    def made(self, name: str, found: Mapping[str, Any]) -> Any:
        """Make a choice of its spelling. Raises: KindError, ArgumentError for what spells none."""
        made = self._made(name, found.get(name))
        if (made if made in self.bare else type(made)) not in self.roles[name]:
            rule = "name one of " + ", ".join(kind.__name__ for kind in self.roles[name])
            raise ArgumentError(must("config.json", name, rule, repr(found.get(name))[:80]))
        return made

    def _made(self, name: str, spelled: object) -> Any:
        if spelled is None or isinstance(spelled, bool | int | float):
            return spelled
        kinds = {kind.__name__: kind for kind in self.parts}
        kind = kinds.get(str(spelled.get("part"))) if isinstance(spelled, Mapping) else None
        if kind is None or not isinstance(spelled, Mapping):
            raise ArgumentError(must("config.json", name, "name a part: " + ", ".join(kinds), repr(spelled)[:80]))
        if kind in self.bare:
            return kind
        try:
            return _MAKERS.get(kind, kind)(
                **{field: self._made(name, value) for field, value in spelled.items() if field != "part"}
            )
        except TypeError as error:
            rule = f"spell out a {kind.__name__}"
            raise ArgumentError(must("config.json", name, rule, dict(spelled), error)) from error

    @property
    def parts(self) -> tuple[type, ...]:
        """All that can be spelled."""
        return (*(kind for kinds in self.roles.values() for kind in kinds), *self.inner)


class StackLayout(OwnLayout):
    """A model of blocks; a score or a selection with parameters is made once for each layer."""

    layers = ("layers", r"layers\.(\d+)\.")
    roles: ClassVar = {
        "placement": (PreNorm, PostNorm),
        "positions": (Sinusoidal, Rotary, Alibi, NoPositions, LearnedPositions, T5Relative),
        "score": (NoneType, Dot, Bilinear, Additive, Concat, Location),
        "select": (NoneType, Softmax, Hard, Sigmoid, Sparsemax, Entmax15, TopK),
    }
    inner = (LayerNorm, RMSNorm, BatchNorm)

    def choices(self, found: Mapping[str, Any]) -> dict[str, Any]:
        choices = {name: self.made(name, found) for name in self.roles}
        if isinstance(choices["score"], nn.Module):
            choices["score"] = partial(self.made, "score", found)
        return choices

    def given(self, model: Any) -> Mapping[str, object]:
        attention = cast(Block, self.first(model)).attention
        return {**model.choices, "score": attention.score, "select": attention.select}

    def first(self, model: Any) -> nn.Module:
        """Give the first block."""
        return model.layers[0]


class TransformerLayout(StackLayout):
    """A Transformer."""

    kind, what, model, config_of = "qkv-transformer", "a Transformer", Transformer, TransformerConfig
    layers = ("layers", r"encoder\.(\d+)\.")

    def first(self, model: Transformer) -> nn.Module:
        return model.encoder[0]


class NestedLayout(StackLayout):
    """A stack whose config has numbers of the same names as choices; these stand by themselves."""

    def placed(self, choices: dict[str, object]) -> dict[str, object]:
        return {"choices": choices}

    def choices(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(choices := found.get("choices"), Mapping):
            raise ArgumentError(must("config.json", "choices", "spell out the model's parts", repr(choices)[:80]))
        return super().choices(choices)


class OwnGptLayout(NestedLayout):
    """A GPT with other choices than GPT-2's."""

    kind, what, model, config_of = "qkv-gpt", "a GPT", Gpt, GptConfig


class OwnBertLayout(NestedLayout):
    """A BERT with other choices than the paper's, with whichever heads a file holds."""

    kind, what, model, config_of = "qkv-bert", "a BERT", Bert, BertConfig

    def build(self, config: BertConfig, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Bert:
        bert = Bert(config, **self.choices(found))
        for head in ("pooler", "masked", "next_sentence"):
            if not any(name.startswith(f"{head}.") for name in tensors):
                setattr(bert, head, None)
        for labels in ("labels", "token_labels"):
            if (weight := tensors.get(f"{labels}.weight")) is not None:
                bert.add_labels(weight.shape[0], of_tokens=labels == "token_labels")
        return bert


class RecurrentLayout(OwnLayout):
    """A recurrent translator."""

    kind, what, model, config_of = "qkv-recurrent", "a recurrent translator", Recurrent, RecurrentConfig
    layers = ("layers", r"encoder\.cell\.weight_ih_l(\d+)$")
    roles: ClassVar = {
        "cell": (nn.GRU, nn.LSTM),
        "attention": (
            looking.NoAttention, looking.AdditiveAttention, looking.LuongAttention, looking.LocalM,
            looking.LocalP, looking.SampledAttention, looking.CoverageAttention,
        ),
        "decoder": (recurrent.LookThenStep, recurrent.StepThenLook, recurrent.InputFed),
    }  # fmt: skip
    inner = (Dot, looking.GeneralScore, looking.ConcatScore, looking.LocationScore)
    bare = (*roles["cell"], *roles["decoder"])

    def choices(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.made(name, found) for name in self.roles}

    def given(self, model: Recurrent) -> Mapping[str, object]:
        return model.choices


class CaptionerLayout(OwnLayout):
    """A captioner, with soft or hard attention."""

    kind, what, model, config_of = "qkv-captioner", "a captioner", Captioner, CaptionerConfig
    layers = ("", "")
    roles: ClassVar = {"attention": (captioner.SoftRegions, captioner.HardRegions)}
    inner = ()

    def count(self, tensors: Mapping[str, Tensor]) -> int | None:
        return None

    def choices(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.made(name, found) for name in self.roles}

    def given(self, model: Captioner) -> Mapping[str, object]:
        return model.choices
