"""BERT: equal to transformers' own on random weights, padded batches included; its parts by hand; the errors."""

import math

import pytest
import torch

import qkv
from qkv import errors
from qkv.models.bert import Bert, BertConfig, Embeddings
from qkv.models.layers import no_positions, post_norm, pre_norm
from qkv.models.norms import batch_norm, layer_norm, rms_norm
from qkv.positions.embeddings import LearnedPositions

CONFIG = BertConfig(vocabulary=50, width=12, layers=3, heads=4, feed_forward=20, positions=16)


def draw(config=CONFIG, *, dtype=torch.float64, **choices):
    """Give every parameter numbers of its own, far from where they start."""
    torch.manual_seed(0)
    bert = Bert(config, **choices).to(dtype).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return bert


TOKENS = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))
SEGMENTS = (torch.arange(9) >= 5).long().expand(3, 9)
LENGTHS = torch.tensor([9, 5, 1])


def normed(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-12).sqrt()


def test_embeddings_sum_token_position_and_segment():
    torch.manual_seed(0)
    embeddings = Embeddings(CONFIG, post_norm(layer_norm(epsilon=1e-12)), LearnedPositions(16, 12)).double().eval()
    summed = embeddings.tokens.weight[TOKENS] + embeddings.positions.weight[:9] + embeddings.segments.weight[SEGMENTS]
    torch.testing.assert_close(embeddings(TOKENS, SEGMENTS, torch.arange(9)), normed(summed), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tanh", [False, True])
def test_a_block_is_post_norm(tanh):
    block = draw(BertConfig(vocabulary=50, width=12, layers=1, heads=4, feed_forward=20, tanh_gelu=tanh)).layers[0]
    x = torch.randn(2, 5, 12, dtype=torch.float64)

    def norm(module, x):
        return normed(x) * module.weight + module.bias

    def gelu(x):
        if tanh:
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    feed = block.feed_forward
    middle = norm(block.attention_residual.norm, x + block.attention(x))
    expected = norm(block.feed_forward_residual.norm, middle + feed.contract(gelu(feed.expand(middle))))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_encode_keeps_what_a_call_computes():
    bert, mask = draw(), qkv.padding(keys=LENGTHS)
    seen = bert.encode(TOKENS, SEGMENTS, mask=mask)
    assert torch.equal(seen.hidden[-1], bert(TOKENS, SEGMENTS, mask=mask))
    assert torch.equal(seen.hidden[0], bert.embeddings(TOKENS, SEGMENTS, torch.arange(9)))
    assert len(seen.hidden) == 4 and len(seen.maps) == 3
    for layer, weights in zip(bert.layers, seen.maps, strict=True):
        assert weights.shape == (3, 4, 9, 9) and layer.attention.heads == 4
        assert (weights.dense()[1, ..., 5:] == 0).all()
        torch.testing.assert_close(weights.dense().sum(-1), torch.ones(3, 4, 9, dtype=torch.float64))


def test_padding_changes_nothing():
    bert = draw()
    padded = bert(TOKENS, SEGMENTS, mask=qkv.padding(keys=LENGTHS))
    flagged = bert(TOKENS, SEGMENTS, mask=qkv.padding(keys=torch.arange(9) < LENGTHS[:, None]))
    assert torch.equal(padded, flagged)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = bert(TOKENS[row, :length], SEGMENTS[row, :length])
        torch.testing.assert_close(padded[row, :length], alone, rtol=0, atol=1e-12)


def test_segments_are_0_by_default():
    bert = draw()
    assert torch.equal(bert(TOKENS), bert(TOKENS, torch.zeros_like(TOKENS)))


def test_the_masked_head_decodes_with_the_token_embedding():
    bert = draw()
    hidden = bert(TOKENS)
    logits = bert.predict_tokens(hidden)
    head = bert.masked
    expected = head.norm(head.gelu(head.dense(hidden))) @ bert.embeddings.tokens.weight.T + head.bias
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    places = torch.tensor([[0, 2], [1, 4]])
    some = bert.predict_tokens(hidden[places[:, 0], places[:, 1]])
    torch.testing.assert_close(some, logits[places[:, 0], places[:, 1]], rtol=0, atol=1e-12)


def test_a_new_model_is_drawn_as_in_the_paper():
    torch.manual_seed(0)
    bert = Bert(BertConfig(vocabulary=500, width=64, layers=2, heads=4, feed_forward=128))
    for name, parameter in bert.named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif parameter.numel() > 1000:
            assert abs(parameter.std() - 0.02) < 0.002, name


def test_it_learns_and_drops_while_training():
    torch.manual_seed(0)
    bert = Bert(CONFIG).train()
    assert not torch.equal(bert(TOKENS), bert(TOKENS))
    logits = bert.predict_tokens(bert(TOKENS))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten())
    (loss + bert.predict_next(bert(TOKENS)).square().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in bert.parameters())


CHOICES = {
    "the paper's": {},
    "pre-norm": {"placement": pre_norm(rms_norm())},
    "batch norm": {"placement": post_norm(batch_norm())},
    "sinusoidal": {"positions": qkv.sinusoidal(12)},
    "rotary": {"positions": qkv.rotary(dim=2)},
    "alibi": {"positions": qkv.alibi(4)},
    "t5": {"positions": qkv.T5Relative(4)},
    "no positions": {"positions": no_positions()},
    "additive": {"score": lambda: qkv.Additive(3, 3, 4)},
    "sparsemax": {"select": qkv.sparsemax()},
}


@pytest.mark.parametrize("name", CHOICES)
def test_packed_texts_are_as_alone(name):
    bert = draw(**CHOICES[name])
    texts = [(TOKENS[row, :length], SEGMENTS[row, :length]) for row, length in enumerate(LENGTHS.tolist())]
    tokens, segments = (torch.cat(parts)[None] for parts in zip(*texts, strict=True))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    packed = bert(tokens, segments, positions=positions, mask=qkv.documents(LENGTHS))
    expected = torch.cat([bert(*(part[None] for part in text))[0] for text in texts])
    torch.testing.assert_close(packed[0], expected, rtol=0, atol=1e-11)
    # Its texts are summed up by their first tokens, wherever they stand.
    first = LENGTHS.cumsum(0) - LENGTHS
    alone = torch.cat([bert.pool(bert(*(part[None] for part in text))) for text in texts])
    torch.testing.assert_close(bert.pool(packed, first), alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CHOICES)
def test_any_choice_learns_and_is_seen(name):
    bert = draw(dtype=torch.float32, **CHOICES[name])
    seen = bert.encode(TOKENS, mask=qkv.padding(keys=LENGTHS))
    torch.testing.assert_close(seen.hidden[-1], bert(TOKENS, mask=qkv.padding(keys=LENGTHS)), rtol=0, atol=1e-5)
    loss, _ = bert.train().loss(TOKENS, torch.tensor([3, 11]), torch.tensor([1, 49]))
    loss.backward()
    for name, parameter in bert.named_parameters():
        unused = name.startswith(("pooler", "next_sentence"))
        assert unused or parameter.grad.isfinite().all(), name


def test_the_masked_loss_is_of_the_masked_places():
    bert = draw()
    places, targets = torch.tensor([0, 12, 26]), torch.tensor([4, 49, 0])
    loss, count = bert.loss(TOKENS, places, targets, SEGMENTS, mask=qkv.padding(keys=LENGTHS))
    logits = bert.predict_tokens(bert(TOKENS, SEGMENTS, mask=qkv.padding(keys=LENGTHS))).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits[places], targets, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-11)
    assert count == 3


def test_the_losses_of_the_other_heads():
    bert = draw()
    hidden, targets = bert(TOKENS), torch.tensor([1, 0, 1])
    loss, count = bert.loss_of_next(hidden, targets)
    expected = torch.nn.functional.cross_entropy(bert.predict_next(hidden), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-11)
    assert count == 3
    bert.add_labels(4)
    assert bert.masked is bert.next_sentence is bert.token_labels is None
    loss, count = bert.loss_of_label(hidden, targets)
    expected = torch.nn.functional.cross_entropy(bert.predict_label(hidden), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-11)
    assert bert.predict_label(hidden).shape == (3, 4) and count == 3
    bert.add_labels(5, of_tokens=True)
    assert bert.labels is bert.pooler is None
    labels = TOKENS % 5
    labels[1, 5:] = -1
    loss, count = bert.loss_of_token_labels(hidden, labels)
    logits = bert.predict_token_labels(hidden).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=-1, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-11)
    assert count == 23


def test_added_labels_are_drawn_small_and_drop_while_training():
    bert = draw()
    bert.add_labels(500)
    assert abs(bert.labels.weight.std() - 0.02) < 0.002 and (bert.labels.bias == 0).all()
    assert bert.labels.weight.dtype == torch.float64
    hidden = bert(TOKENS)
    assert torch.equal(bert.predict_label(hidden), bert.predict_label(hidden))
    assert not torch.equal(bert.train().predict_label(hidden), bert.predict_label(hidden))


@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
def test_equals_transformers(act):
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    torch.manual_seed(0)
    theirs_config = transformers.BertConfig(
        vocab_size=50, hidden_size=12, num_hidden_layers=3, num_attention_heads=4, intermediate_size=20,
        max_position_embeddings=16, hidden_act=act, initializer_range=0.5,
    )  # fmt: skip
    theirs = transformers.BertForPreTraining._from_config(theirs_config, attn_implementation="eager").eval()
    from qkv.models.layouts.bert import BertLayout

    ours = Bert(BertConfig(50, 12, 3, 4, 20, 16, tanh_gelu=act == "gelu_new")).eval()
    tensors = BertLayout().plain("test", theirs.state_dict())
    ours.load_state_dict(BertLayout().ours(tensors, ours.state_dict()))
    keep = torch.arange(9) < LENGTHS[:, None]
    expected = theirs(
        TOKENS, attention_mask=keep.long(), token_type_ids=SEGMENTS, output_hidden_states=True, output_attentions=True
    )
    seen = ours.encode(TOKENS, SEGMENTS, mask=qkv.padding(keys=keep))
    assert len(seen.hidden) == len(expected.hidden_states)
    for got, wanted in zip(seen.hidden, expected.hidden_states, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    for got, wanted in zip(seen.maps, expected.attentions, strict=True):
        torch.testing.assert_close(got.dense(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.predict_tokens(seen.hidden[-1]), expected.prediction_logits, rtol=0, atol=1e-4)
    nexts = ours.predict_next(seen.hidden[-1])
    torch.testing.assert_close(nexts, expected.seq_relationship_logits, rtol=0, atol=1e-5)


def bare():
    bert = draw()
    bert.pooler = bert.masked = bert.next_sentence = None
    return bert


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: BertConfig(width=0), errors.ArgumentError, "BertConfig: width must be >= 1; got 0"),
        (lambda: BertConfig(layers="2"), errors.KindError, "BertConfig: layers must be an integer; got str"),
        (lambda: BertConfig(heads=7), errors.ArgumentError, "BertConfig: heads must divide the width 768; got 7"),
        (lambda: BertConfig(dropout=1.5), errors.ArgumentError, "BertConfig: dropout must lie in [0, 1]; got 1.5"),
        (
            lambda: BertConfig(attention_dropout=-1),
            errors.ArgumentError,
            "BertConfig: attention_dropout must lie in [0, 1]; got -1",
        ),
        (lambda: BertConfig(epsilon=0), errors.ArgumentError, "BertConfig: epsilon must be a finite number > 0; got 0"),
        (
            lambda: BertConfig(padding=-1),
            errors.ArgumentError,
            "BertConfig: padding must be >= 0; got -1 (the token that fills a batch up)",
        ),
        (lambda: draw()([1, 2]), errors.KindError, "Bert: tokens must be a tensor of integers; got list"),
        (lambda: draw()(TOKENS, [0]), errors.KindError, "Bert: segments must be a tensor of integers; got list"),
        (
            lambda: draw()(TOKENS.float()),
            errors.KindError,
            "Bert: tokens must be a tensor of integers; got torch.float32",
        ),
        (lambda: draw()(TOKENS + 42), errors.ArgumentError, "Bert: tokens must lie in 0..49; got 91"),
        (lambda: draw()(-TOKENS), errors.ArgumentError, "Bert: tokens must lie in 0..49; got -49"),
        (
            lambda: draw()(torch.zeros(2, 17, dtype=torch.long)),
            errors.ShapeError,
            "Bert: tokens must have the shape [*batch, positions], at most 16 positions; got [2, 17]",
        ),
        (
            lambda: draw()(torch.tensor(3)),
            errors.ShapeError,
            "Bert: tokens must have the shape [*batch, positions]; got []",
        ),
        (
            lambda: draw()(TOKENS, SEGMENTS[:, :8]),
            errors.ShapeError,
            "Bert: segments must have the tokens' shape [3, 9]; got [3, 8]",
        ),
        (lambda: draw()(TOKENS, SEGMENTS + 1), errors.ArgumentError, "Bert: segments must lie in 0..1; got 2"),
        (
            lambda: draw()(TOKENS, mask=TOKENS > 0),
            errors.KindError,
            "Bert: mask must be a mask; got Tensor "
            "(qkv.padding(keys=...) of lengths, or of booleans where True = keep)",
        ),
        (
            lambda: bare().pool(torch.ones(3, 9, 12).double()),
            errors.UnsupportedError,
            "Bert.pool: the model must have its head 'pooler'; got None",
        ),
        (
            lambda: bare().predict_tokens(torch.ones(3, 9, 12).double()),
            errors.UnsupportedError,
            "Bert.predict_tokens: the model must have its head 'masked'; got None",
        ),
        (
            lambda: bare().predict_next(torch.ones(3, 9, 12).double()),
            errors.UnsupportedError,
            "Bert.predict_next: the model must have its head 'next_sentence'; got None",
        ),
        (
            lambda: bare().loss(TOKENS, torch.tensor([0]), torch.tensor([0])),
            errors.UnsupportedError,
            "Bert.loss: the model must have its head 'masked'; got None",
        ),
        (
            lambda: bare().add_labels(3),
            errors.UnsupportedError,
            "Bert.add_labels: the model must have its head 'pooler'; got None",
        ),
        (lambda: draw().add_labels(0), errors.ArgumentError, "Bert.add_labels: count must be >= 1; got 0"),
        (
            lambda: draw().predict_label(draw()(TOKENS)),
            errors.UnsupportedError,
            "Bert.predict_label: the model must have its head 'labels'; got None",
        ),
        (
            lambda: draw().predict_token_labels(draw()(TOKENS)),
            errors.UnsupportedError,
            "Bert.predict_token_labels: the model must have its head 'token_labels'; got None",
        ),
        (
            lambda: draw().loss(TOKENS, torch.tensor([27]), torch.tensor([0])),
            errors.ArgumentError,
            "Bert.loss_of_masked: places must lie in 0..26; got 27",
        ),
        (
            lambda: draw(placement="post"),
            errors.KindError,
            "Bert: placement must say where a norm stands; got 'post' (qkv.pre_norm(norm) or qkv.post_norm(norm))",
        ),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text


@pytest.mark.unhooked
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_tokens_may_be_any_integers(dtype):
    bert = draw()
    assert torch.equal(bert(TOKENS.to(dtype)), bert(TOKENS))


@pytest.mark.compile
def test_compiles_in_one_graph():
    bert = draw(dtype=torch.float32)
    mask = qkv.padding(keys=LENGTHS)
    compiled = torch.compile(bert, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(TOKENS, mask=mask), bert(TOKENS, mask=mask))
