"""A head, a layer or an edge is changed as the definition says, and every head's effect is what its absence makes."""

import architectures
import pytest
import torch

import qkv
from qkv.errors import ArgumentError, KindError, UnsupportedError
from qkv.lens.ablate import ablate, effects
from qkv.lens.heads import habits, text_of
from qkv.lens.reading import read
from qkv.text.batching import Sequences

TOKENS = torch.tensor([[1, 3, 4, 5, 2], [1, 6, 3, 7, 2]])


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64)
    bert = qkv.Bert(config).eval()
    # As it is drawn attention is nearly uniform, and adds next to nothing.
    with torch.no_grad():
        for parameter in bert.layers.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return bert


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    gpt = qkv.Gpt(qkv.GptConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64)).eval()
    with torch.no_grad():
        for parameter in gpt.layers.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return gpt


def with_weights(model, layer, change):
    """Run a Bert or Gpt whose layer's attention is computed densely, with its weights changed."""
    attention = model.layers[layer].attention

    def forward(x, memory=None, *, mask=None, bias=None, cache=None):
        query, key, value = (
            linear(x).unflatten(-1, (2, -1)).transpose(1, 2)
            for linear in (attention.query, attention.key, attention.value)
        )
        scores = query @ key.mT / query.shape[-1] ** 0.5
        shown = torch.ones_like(scores, dtype=torch.bool)
        if isinstance(model, qkv.Gpt):
            shown = shown.tril()
        heads = change(scores, shown) @ value
        return attention.output(heads.transpose(1, 2).flatten(-2))

    attention.forward = forward
    try:
        with torch.no_grad():
            return model(TOKENS)
    finally:
        del attention.forward


def softmax(scores, shown):
    return scores.masked_fill(~shown, -torch.inf).softmax(-1)


def off(head):
    def change(scores, shown):
        weights = softmax(scores, shown)
        weights[:, head] = 0
        return weights

    return change


def uniform(head):
    def change(scores, shown):
        weights = softmax(scores, shown)
        weights[:, head] = (shown / shown.sum(-1, keepdim=True))[:, head]
        return weights

    return change


def cut(head, query, key):
    def change(scores, shown):
        shown = shown.clone()
        shown[:, head, query, key] = False
        return softmax(scores, shown)

    return change


every = slice(None)
CASES = [
    (qkv.Off(layer=1, head=1), 1, off(1)),
    (qkv.Off(layer=0), 0, off(every)),
    (qkv.Uniform(layer=1, head=0), 1, uniform(0)),
    (qkv.Uniform(layer=0), 0, uniform(every)),
    (qkv.CutEdge(layer=0, head=1, query=3, key=1), 0, cut(1, 3, 1)),
    (qkv.CutEdge(layer=1, query=3, key=1), 1, cut(every, 3, 1)),
]


@pytest.mark.parametrize("name", ["bert", "gpt"])
@pytest.mark.parametrize(("change", "layer", "made"), CASES)
def test_a_change_is_that_of_the_weights(request, name, change, layer, made):
    model = request.getfixturevalue(name)
    with torch.no_grad():
        before = model(TOKENS)
        with ablate(model, change):
            found = model(TOKENS)
        assert torch.equal(model(TOKENS), before)
    torch.testing.assert_close(found, with_weights(model, layer, made), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)


def test_changes_act_together(gpt):
    changes = [qkv.Off(layer=0, head=0), qkv.Uniform(layer=0, head=1), qkv.CutEdge(layer=1, query=4, key=2)]

    def first(scores, shown):
        return uniform(1)(scores, shown) * torch.tensor([0.0, 1.0])[:, None, None]

    with torch.no_grad(), ablate(gpt, changes):
        found = gpt(TOKENS)
    with ablate(gpt, changes[2]):
        torch.testing.assert_close(found, with_weights(gpt, 0, first), atol=1e-5, rtol=1e-5)


def test_a_bias_of_minus_infinity_hides_from_a_uniform_head():
    torch.manual_seed(0)
    module = qkv.MultiHead(8, 2)
    x = torch.randn(1, 3, 8)
    bias = torch.tensor([[0.0, 5.0, -torch.inf]]).expand(3, 3)
    with torch.no_grad(), ablate(module, qkv.Uniform(layer=0)):
        found = module(x, bias=bias)
    expected = module.output(module.value(x)[:, :2].mean(1))
    torch.testing.assert_close(found, expected[:, None].expand(-1, 3, -1))


def test_what_is_not_there_is_said(bert):
    cases = [
        (qkv.Off(layer=0, head=2), r"^ablate: Off.head must lie in 0\.\.1; got 2$"),
        (qkv.CutEdge(layer=0, query=9, key=0), r"^ablate: CutEdge.query must lie in 0\.\.4; got 9$"),
        (qkv.CutEdge(layer=0, query=0, key=-1), r"^ablate: CutEdge.key must lie in 0\.\.4; got -1$"),
        (
            qkv.Off(layer=7),
            r"^ablate: Off\(layer=7, .*\) must be of an attention that ran; got none of these \(there were layers\.0",
        ),
    ]
    for change, text in cases:
        with pytest.raises(ArgumentError, match=text), ablate(bert, change):
            bert(TOKENS)
    # An error inside the block is not hidden by one of ours.
    with pytest.raises(ZeroDivisionError), ablate(bert, qkv.Off(layer=7)):
        1 / 0  # noqa: B018


def test_an_encoder_and_a_decoder_are_told_apart():
    torch.manual_seed(0)
    model = qkv.Transformer(qkv.TransformerConfig(13, 8, 1, 2, 16)).eval()
    source, target = Sequences.of(TOKENS[:, :4]), Sequences.of(TOKENS)

    def run():
        with torch.no_grad():
            return model(source, target)

    text = r"must be of one attention; got .* \(say within= a part of its name\)$"
    with pytest.raises(ArgumentError, match=text), ablate(model, qkv.Off(layer=0)):
        run()
    before = run()
    found = []
    for change in (
        qkv.Off(layer=0, within="encoder"), qkv.Off(layer=0, within="decoder"), qkv.Off(layer=0, kind="cross")
    ):  # fmt: skip
        with ablate(model, change):
            found.append(run())
    # What cannot be copied is run a head at a time.
    table = effects(model, (source, target), Whole())
    assert [(one.name, one.head) for one in table] == [
        (name, head)
        for name in ("encoder.0.attention", "decoder.0.attention", "decoder.0.cross")
        for head in (0, 1, None)
    ]
    assert [one.change for one in table[2::3]] == pytest.approx([float((one - before).norm()) for one in found])
    assert all(not torch.equal(one, other) for one in found for other in (before, *found) if one is not other)


class Whole:
    """All that a model gives, compared by the distance."""

    unit, by_example = "distance", True

    def read(self, model, batch):
        return model(*batch)

    def compare(self, before, after):
        return float((after - before).norm()), 0.0, 0.0


@pytest.mark.parametrize("measure", [qkv.Prediction(), qkv.Prediction(2), qkv.Vector(), qkv.Vector((1, 3))])
def test_effects_are_those_of_ablating_each_head(gpt, measure, monkeypatch):
    gpt.train()
    monkeypatch.setattr("qkv.lens.ablate.AT_ONCE", 40)
    told = []
    found = effects(gpt, TOKENS, measure, tell=lambda done, total: told.append((done, total)))
    assert gpt.training and told == [(4, 6), (6, 6)]
    assert [(one.layer, one.head) for one in found] == [(0, 0), (0, 1), (0, None), (1, 0), (1, 1), (1, None)]
    gpt.eval()
    with torch.no_grad():
        before = measure.read(gpt, TOKENS)
        for one in found:
            with ablate(gpt, qkv.Off(layer=one.layer, head=one.head)):
                after = measure.read(gpt, TOKENS)
            assert (one.change, one.before, one.after) == pytest.approx(measure.compare(before, after), abs=1e-5)
    assert max(one.change for one in found) > 1e-4


def test_measures_checked_by_hand():
    before, after = torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    change, was, now = qkv.Prediction().compare(before.double(), after.double())
    expected = (0.8 * torch.tensor(1.6).log() + 0.2 * torch.tensor(0.4).log()) / 2
    assert (change, was, now) == pytest.approx((expected.item(), 0.65, 0.5), abs=1e-6)
    change, was, now = qkv.Vector().compare(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    assert (change, was, now) == pytest.approx((1 - 0.5**0.5, 2, 2**0.5), abs=1e-6)
    assert qkv.Loss().compare(torch.tensor(1.0), torch.tensor(3.0)) == (2, 1, 3)


def test_habits_stand_beside_the_effects(bert, tokenizer):
    reading = read(bert, tokenizer, "the cat The mouse .")
    tokens = torch.tensor([tokenizer.encode(reading.text).ids])
    found = effects(bert, tokens, qkv.Vector(), text=text_of(reading))
    for head in habits(reading):
        (one,) = (one for one in found if (one.layer, one.head) == (head.layer, head.head))
        for name in ("entropy", "previous", "separator", "same_word", "broad"):
            assert getattr(one, name) == pytest.approx(getattr(head, name), abs=1e-5)
    layer = [one for one in found if one.layer == 0]
    assert layer[2].previous == pytest.approx((layer[0].previous + layer[1].previous) / 2)


def test_the_loss_of_a_model_of_transformers():
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = architectures.tiny(architectures.DECODERS["gpt2"], "sdpa")
    batch = {"input_ids": TOKENS, "labels": TOKENS}
    found = effects(model, batch, qkv.Loss())
    assert len(found) == 2 * 5
    with torch.no_grad(), ablate(model, qkv.Off(layer=1, head=2)):
        after = model(**batch).loss
    (one,) = (one for one in found if (one.layer, one.head) == (1, 2))
    assert one.after == pytest.approx(after.item(), abs=1e-6)
    assert one.change == pytest.approx(one.after - one.before)
    # Zeroing a head's slice of what the output projection takes is the definition.
    width = model.config.n_embd // model.config.n_head

    def zero(module, inputs):
        x = inputs[0].clone()
        x[..., 2 * width : 3 * width] = 0
        return (x,)

    handle = model.transformer.h[1].attn.c_proj.register_forward_pre_hook(zero)
    with torch.no_grad():
        assert model(**batch).loss.item() == pytest.approx(after.item(), abs=1e-6)
    handle.remove()


def test_what_is_for_all_examples_is_not_copied():
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = architectures.tiny(architectures.DECODERS["gpt2"], "sdpa")
    positions = torch.arange(5)
    expected = effects(model, TOKENS, qkv.Prediction())
    # One row for both examples, and what no copies can be made of.
    for more in ({"position_ids": positions[None]}, {"position_ids": positions}):
        found = effects(model, {"input_ids": TOKENS, **more}, qkv.Prediction())
        assert [one.change for one in found] == pytest.approx([one.change for one in expected], abs=1e-6)


def test_what_has_no_prediction_or_attention_is_said(bert):
    bert.masked = None
    with pytest.raises(
        UnsupportedError, match=r"^Bert.predict_tokens: the model must have its head 'masked'; got None"
    ):
        effects(bert, TOKENS, qkv.Prediction())
    with pytest.raises(
        UnsupportedError, match=r"^effects: model must predict tokens; got Linear \(measure its vectors"
    ):
        effects(torch.nn.Linear(2, 2), torch.zeros(1, 2), qkv.Prediction())
    with pytest.raises(ArgumentError, match=r"^effects: model must have attention that qkv can meet; got none$"):
        effects(torch.nn.Linear(2, 2), torch.zeros(1, 2), qkv.Loss(lambda model, batch: model(batch).sum()))


@pytest.mark.unhooked
def test_what_is_of_another_kind_is_said(bert):
    text = r"^ablate: changes must be qkv.Off, qkv.Uniform or qkv.CutEdge; got 'off'$"
    with pytest.raises(KindError, match=text), ablate(bert, ["off"]):
        pass
    cases = [
        (None, r"^ablate: changes must be qkv.Off, qkv.Uniform or qkv.CutEdge; got None$"),
        ("off", r"^ablate: changes must be qkv.Off, qkv.Uniform or qkv.CutEdge; got 'off'$"),
        (qkv.Off(layer=0, head="a"), r"^ablate: Off.head must be an integer; got 'a'$"),
        (qkv.Off(layer=0, head=True), r"^ablate: Off.head must be an integer; got True$"),
        (qkv.Uniform(layer=0, head=1.0), r"^ablate: Uniform.head must be an integer; got 1.0$"),
        (qkv.Off(layer=None), r"^ablate: Off.layer must be an integer; got None$"),
        (
            qkv.CutEdge(layer=0, query=slice(0, 2), key=0),
            r"^ablate: CutEdge.query must be an integer; got slice\(0, 2, None\) \(a change for each\)$",
        ),
        (qkv.Off(layer=0, within=1), r"^ablate: Off.within must be a string; got 1$"),
    ]
    for change, text in cases:
        with pytest.raises(KindError, match=text), ablate(bert, change):
            pass
    text = r"^ablate: Off.kind must be 'self' or 'cross'; got 'both'$"
    with pytest.raises(ArgumentError, match=text), ablate(bert, qkv.Off(layer=0, kind="both")):
        pass
    text = r"^effects: batch must be a tensor, a dict of keywords or a tuple of arguments; got str$"
    with pytest.raises(KindError, match=text):
        effects(bert, "text", qkv.Vector())


def plain(model, batch):
    return model(batch).mean()


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (
            lambda bert: effects(lambda tokens: tokens, TOKENS, qkv.Vector()),
            r"^effects: model must be a torch\.nn\.Module; got .*function.* \(the module itself; Loss",
        ),
        (lambda bert: effects(3, TOKENS, qkv.Vector()), r"^effects: model must be a torch\.nn\.Module; got 3$"),
        (
            lambda bert: effects(bert, TOKENS, plain),
            r"^effects: measure must be Prediction\(\), Vector\(\), Loss\(\) or another Measure; got .*plain",
        ),
        (
            lambda bert: effects(bert, TOKENS, qkv.Loss),
            r"^effects: measure must be Prediction\(\), Vector\(\), Loss\(\)",
        ),
        (
            lambda bert: effects(bert, "text", qkv.Vector()),
            r"^effects: batch must be a tensor, a dict of keywords or a tuple of arguments; got str$",
        ),
        (
            lambda bert: effects(bert, TOKENS, qkv.Loss(lambda model, batch: 3.0)),
            r"^Loss: of\(model, batch\) must give a tensor of one number; got 3\.0",
        ),
        (
            lambda bert: effects(bert, TOKENS, qkv.Loss(lambda model, batch: model(batch))),
            r"^Loss: of\(model, batch\) must give a tensor of one number; got .* \(reduce it: loss\.mean\(\)\)$",
        ),
        (
            lambda bert: ablate(plain, qkv.Off(layer=0)).__enter__(),
            r"^ablate: model must be a torch\.nn\.Module; got .*plain.* \(the module itself",
        ),
    ],
)
def test_what_is_no_module_or_no_measure_is_said(bert, ask, text):
    with pytest.raises(KindError, match=text):
        ask(bert)


def test_a_loss_needs_labels(bert):
    rule = r"^Loss: model must tell its loss; got no loss from {} \(give labels in the batch, or measure another"
    with pytest.raises(ArgumentError, match=rule.format("Bert")):
        effects(bert, TOKENS, qkv.Loss())
    pytest.importorskip("transformers", reason="transformers is an extra")
    model = architectures.tiny(architectures.ENCODERS["bert"])
    with pytest.raises(ArgumentError, match=rule.format("BertForMaskedLM")):
        effects(model, {"input_ids": TOKENS}, qkv.Loss())
    assert effects(model, {"input_ids": TOKENS, "labels": TOKENS}, qkv.Loss())
    assert len(effects(bert, TOKENS, qkv.Loss(plain))) == 6
