"""Folders of our own translators: every choice there and back, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import qkv
from qkv import errors
from qkv.models.layers import no_positions, post_norm, pre_norm
from qkv.models.looking import (
    AdditiveAttention,
    ConcatScore,
    CoverageAttention,
    LocalM,
    LocalP,
    LocationScore,
    LuongAttention,
    NoAttention,
    SampledAttention,
)
from qkv.models.norms import batch_norm, rms_norm
from qkv.models.pretrained import load_bert, load_model, save_model
from qkv.models.recurrent import InputFed, Recurrent, RecurrentConfig, StepThenLook
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.text.batching import Sequences

SOURCE = Sequences.of([torch.tensor([2, 5, 3, 4]), torch.tensor([6])])
TARGET = Sequences.of([torch.tensor([1, 2]), torch.tensor([1, 7, 3])])
CONFIG = TransformerConfig(vocabulary=9, width=8, layers=2, heads=2, feed_forward=16, dropout=0.25)

TRANSFORMERS = [
    {},
    {"placement": pre_norm(rms_norm(epsilon=1e-3)), "positions": qkv.rotary(base=500.0), "select": qkv.topk(2)},
    {"placement": post_norm(batch_norm(momentum=0.2)), "positions": qkv.alibi(heads=2), "select": qkv.sparsemax()},
    {"positions": qkv.LearnedPositions(5, 8), "score": lambda: qkv.Additive(4, 4, 3)},
    {"positions": qkv.T5Relative(heads=2, buckets=8, max_distance=9), "score": lambda: qkv.Bilinear(4, 4)},
    {"positions": no_positions(), "score": qkv.dot(), "select": qkv.sigmoid(0.5)},
]
RECURRENTS = [
    {},
    {"attention": NoAttention(), "cell": nn.LSTM},
    {"attention": AdditiveAttention(hidden=3), "decoder": StepThenLook},
    {"attention": LuongAttention(qkv.dot()), "decoder": InputFed},
    {"attention": LuongAttention(ConcatScore(hidden=3))},
    {"attention": LocalM(reach=1, score=LocationScore(longest=6)), "cell": nn.LSTM},
    {"attention": LocalP(reach=2)},
    {"attention": SampledAttention(entropy=0.5, decay=0.5)},
    {"attention": CoverageAttention(weight=0.5)},
]


def transformer(**choices):
    torch.manual_seed(0)
    return Transformer(CONFIG, **choices).eval()


def recurrent(**choices):
    torch.manual_seed(0)
    return Recurrent(RecurrentConfig(vocabulary=9, width=8, layers=2), **choices).eval()


GPTS = [
    {"positions": qkv.rotary()},
    {"positions": qkv.alibi(heads=2), "placement": post_norm(rms_norm()), "select": qkv.topk(2)},
    {"score": lambda: qkv.Additive(4, 4, 3)},
]
BERTS = [{"positions": no_positions()}, {"positions": qkv.sinusoidal(8), "placement": pre_norm(batch_norm())}]


def gpt(**choices):
    torch.manual_seed(0)
    return qkv.Gpt(qkv.GptConfig(9, 8, 2, 2, 16, 12, end=1), **choices).eval()


def bert(heads=("pooler", "masked", "next_sentence"), **choices):
    torch.manual_seed(0)
    made = qkv.Bert(qkv.BertConfig(9, 8, 2, 2, 16, 12), **choices).eval()
    for head in {"pooler", "masked", "next_sentence"} - set(heads):
        setattr(made, head, None)
    return made


def gpt_that_turns():
    return gpt(positions=qkv.rotary())


MODELS = [(transformer, given) for given in TRANSFORMERS] + [(recurrent, given) for given in RECURRENTS]


@pytest.mark.parametrize(("make", "given"), MODELS)
def test_there_and_back(make, given, tmp_path):
    model = make(**given)
    # A step of training moves the statistics that are no parameters too.
    model.train().loss(SOURCE, TARGET, TARGET.tokens)
    model.eval()
    save_model(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = load_model(tmp_path)
    assert type(again) is type(model) and again.config == model.config and not again.training
    assert {name: x.dtype for name, x in again.state_dict().items()} == {
        name: x.dtype for name, x in model.state_dict().items()
    }
    assert torch.equal(again(SOURCE, TARGET), model(SOURCE, TARGET))
    total = again.train().loss(SOURCE, TARGET, TARGET.tokens)[0]
    total.backward()
    save_model(again, tmp_path, overwrite=True)


def test_a_choice_comes_back_as_it_was(tmp_path):
    save_model(recurrent(attention=LocalM(reach=1, score=LocationScore(longest=6)), decoder=InputFed), tmp_path)
    assert load_model(tmp_path).choices == {
        "cell": nn.GRU,
        "attention": LocalM(reach=1, score=LocationScore(longest=6)),
        "decoder": InputFed,
    }
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["model_type"] == "qkv-recurrent"
    assert found["attention"] == {"part": "LocalM", "reach": 1, "score": {"part": "LocationScore", "longest": 6}}


def test_each_layer_has_a_score_of_its_own(tmp_path):
    save_model(transformer(score=lambda: qkv.Additive(4, 4, 3)), tmp_path)
    again = load_model(tmp_path)
    scores = [layer.attention.score for layer in (*again.encoder, *again.decoder)]
    assert len(set(map(id, scores))) == 4


@pytest.mark.parametrize(
    ("make", "given", "name"),
    [
        (transformer, {"positions": lambda places: torch.zeros(*places.shape, 8)}, "positions"),
        (transformer, {"score": qkv.cosine()}, "score"),
        (transformer, {"placement": pre_norm(nn.LayerNorm)}, "placement"),
        (recurrent, {"attention": lambda width: AdditiveAttention()(width)}, "attention"),
    ],
)
def test_what_no_folder_can_name_is_refused_before_anything_is_written(make, given, name, tmp_path):
    with pytest.raises(errors.UnsupportedError, match=f"save_model: {name} must be one that config.json can name"):
        save_model(make(**given), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def changed(**fields):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def spelled(name, **part):
    def change(folder):
        path = folder / "config.json"
        found = json.loads(path.read_text())
        found["choices"][name] = part
        path.write_text(json.dumps(found))

    return change


def without(name):
    def change(folder):
        path = folder / "config.json"
        found = json.loads(path.read_text())
        del found[name]
        path.write_text(json.dumps(found))

    return change


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def reshaped(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["embedding.weight"] = tensors["embedding.weight"][:-1].clone()
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("make", "change", "kind", "message"),
    [
        (transformer, cut, errors.FileError, r"model.safetensors must be whole, in the safetensors format"),
        (recurrent, cut, errors.FileError, r"model.safetensors must be whole, in the safetensors format"),
        (recurrent, reshaped, errors.FileError, r"embedding.weight torch.float32 \[8, 8\], not floating \[9, 8\]"),
        (transformer, changed(layers=3), errors.FileError, "must have layers = 2, the layers that its tensors name"),
        (recurrent, changed(layers=1), errors.FileError, "must have layers = 2, the layers that its tensors name"),
        (transformer, changed(width=9), errors.FileError, "must describe a Transformer; got .* divide the width 9"),
        (
            recurrent,
            changed(width=-8),
            errors.FileError,
            "describe a recurrent translator; got .*width must be >=",
        ),
        (transformer, without("heads"), errors.FileError, "the numbers must all be given; got no heads"),
        (
            transformer,
            changed(placement={"part": "system"}),
            errors.FileError,
            "describe a Transformer; got config.json: placement must name a part",
        ),
        (
            recurrent,
            changed(attention={"part": "LocalM", "far": 3}),
            errors.FileError,
            "config.json: attention must spell out a LocalM",
        ),
        (
            recurrent,
            changed(cell={"part": "LSTM"}),
            errors.FileError,
            "the tensors that its config.json describes",
        ),
        (
            gpt_that_turns,
            changed(choices=None),
            errors.FileError,
            "must describe a GPT; got .* must spell out the model's",
        ),
        (
            gpt_that_turns,
            changed(choices={"placement": {"part": "system"}}),
            errors.FileError,
            "must describe a GPT; got .* placement must name a part",
        ),
        (
            gpt_that_turns,
            spelled("positions", part="Rotary", base=-1.0),
            errors.FileError,
            "must describe a GPT; got rotary: base must be a finite number > 1; got -1.0",
        ),
        (
            gpt_that_turns,
            spelled("select", part="TopK", k=0),
            errors.FileError,
            "must describe a GPT; got topk: k must be >= 1; got 0",
        ),
        (
            gpt_that_turns,
            spelled("placement", part=["PreNorm"]),
            errors.FileError,
            "must describe a GPT; got .* placement must name a part",
        ),
        (recurrent, changed(attention=7), errors.FileError, "must describe a recurrent translator"),
        (recurrent, changed(decoder=None), errors.FileError, "must describe a recurrent translator"),
        (transformer, changed(placement=1.5), errors.FileError, "must describe a Transformer"),
        (
            transformer,
            changed(model_type="qkv-recurrent"),
            errors.FileError,
            "must describe a recurrent translator; got config.json: cell must name one of GRU, LSTM; got None",
        ),
        (
            transformer,
            changed(model_type="other"),
            errors.UnsupportedError,
            "model_type in .* must be 'bert' or 'gpt2' or",
        ),
    ],
)
def test_folders_that_are_broken(make, change, kind, message, tmp_path):
    save_model(make(), tmp_path)
    change(tmp_path)
    with pytest.raises(kind, match=message):
        load_model(tmp_path)


def test_no_other_model_is_taken_for_it(tmp_path):
    save_model(transformer(), tmp_path)
    with pytest.raises(
        errors.UnsupportedError, match=r"load_bert: model_type in .* must be 'bert'; got 'qkv-transformer'"
    ):
        load_bert(tmp_path)


@pytest.mark.parametrize(("make", "given"), [(gpt, given) for given in GPTS] + [(bert, given) for given in BERTS])
def test_stacks_there_and_back(make, given, tmp_path):
    model = make(**given)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model) and again.config == model.config and not again.training
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == f"qkv-{type(model).__name__.lower()}"
    tokens = torch.tensor([[1, 4, 2, 8]])
    assert torch.equal(again(tokens), model(tokens))
    assert {name: type(part) for name, part in again.choices.items() if name in ("placement", "positions")} == {
        name: type(part) for name, part in model.choices.items() if name in ("placement", "positions")
    }


@pytest.mark.parametrize("heads", [(), ("pooler",), ("masked",), ("pooler", "next_sentence")], ids=len)
def test_a_bert_keeps_the_heads_it_has(heads, tmp_path):
    save_model(bert(heads, positions=qkv.rotary()), tmp_path)
    again = load_model(tmp_path)
    assert [head for head in ("pooler", "masked", "next_sentence") if getattr(again, head) is not None] == [*heads]


@pytest.mark.parametrize("of_tokens", [False, True])
def test_a_bert_keeps_its_labels(of_tokens, tmp_path):
    model = bert(positions=qkv.rotary())
    model.add_labels(3, of_tokens=of_tokens)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    kept, other = (again.token_labels, again.labels) if of_tokens else (again.labels, again.token_labels)
    assert other is None and again.masked is None
    assert torch.equal(kept.weight, (model.token_labels if of_tokens else model.labels).weight)


def test_papers_choices_stay_in_hugging_faces_layout(tmp_path):
    for number, model in enumerate((gpt(), bert())):
        save_model(model, tmp_path / str(number))
    kinds = [json.loads((tmp_path / str(number) / "config.json").read_text())["model_type"] for number in range(2)]
    assert kinds == ["gpt2", "bert"]
