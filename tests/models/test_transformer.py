"""The Transformer: torch's own with the same weights; packed, one by one and step by step; every choice; the loss."""

import math

import pytest
import torch
from copying import copying
from torch import nn

import qkv
from qkv import errors
from qkv.models.layers import no_positions, post_norm, pre_norm
from qkv.models.norms import batch_norm, layer_norm, rms_norm
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.text.batching import Sequences


def sequences(*lengths, seed):
    numbers = torch.Generator().manual_seed(seed)
    return Sequences.of(torch.randint(1, 20, (length,), generator=numbers) for length in lengths)


SOURCE, TARGET = sequences(5, 2, 7, seed=0), sequences(4, 6, 2, seed=1)
CONFIG = TransformerConfig(vocabulary=20, width=8, layers=2, heads=2, feed_forward=12, dropout=0.0, smoothing=0.0)

CHOICES = {
    "the paper's": {},
    "pre-norm": {"placement": pre_norm()},
    "RMSNorm": {"placement": post_norm(rms_norm())},
    "BatchNorm": {"placement": post_norm(batch_norm())},
    "pre-norm, BatchNorm": {"placement": pre_norm(batch_norm())},
    "rotary": {"positions": qkv.rotary()},
    "ALiBi": {"positions": qkv.alibi(heads=2)},
    "T5": {"positions": qkv.T5Relative(heads=2)},
    "learned": {"positions": qkv.LearnedPositions(9, 8)},
    "no positions": {"positions": no_positions()},
    "additive": {"score": lambda: qkv.Additive(4, 4, 3)},
    "cosine": {"score": qkv.cosine()},
    "entmax": {"select": qkv.entmax15()},
    "top-k": {"select": qkv.topk(2)},
}
every_choice = pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)


def make(config=CONFIG, **choices):
    torch.manual_seed(0)
    return Transformer(config, **choices).double().eval()


def near(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_is_torchs_own():
    model = make()
    theirs = nn.Transformer(8, 2, 2, 2, 12, dropout=0.0, batch_first=True, norm_first=False).double().eval()
    # Theirs norms once more at the end of each stack.
    theirs.encoder.norm = theirs.decoder.norm = None
    stacks = (model.encoder, theirs.encoder.layers), (model.decoder, theirs.decoder.layers)
    for mine, layers in stacks:
        for layer, other in zip(mine, layers, strict=True):
            other.self_attn = layer.attention.to_torch()
            norms = [layer.attention_residual.norm, layer.feed_forward_residual.norm]
            if hasattr(layer, "cross"):
                other.multihead_attn = layer.cross.to_torch()
                norms.insert(1, layer.cross_residual.norm)
            for index, norm in enumerate(norms):
                setattr(other, f"norm{index + 1}", norm)
            other.linear1, other.linear2 = layer.feed_forward.expand, layer.feed_forward.contract
    for source, target, hidden in zip(
        SOURCE.split(), TARGET.split(), model(SOURCE, TARGET).split([4, 6, 2]), strict=True
    ):
        given = [
            (model.embedding.weight[tokens] * math.sqrt(8) + qkv.sinusoidal(8)(torch.arange(len(tokens))))[None]
            for tokens in (source, target)
        ]
        mask = nn.Transformer.generate_square_subsequent_mask(len(target), dtype=torch.float64)
        near(hidden, theirs(*given, tgt_mask=mask)[0])


@every_choice
def test_together_is_one_by_one_and_step_by_step(choices):
    model = make(**choices)
    hidden = model(SOURCE, TARGET)
    pairs = zip(SOURCE.split(), TARGET.split(), strict=True)
    near(hidden, torch.cat([model(Sequences.of([one]), Sequences.of([other])) for one, other in pairs]))
    state = model.start(SOURCE)
    for step in range(2):
        tokens = torch.stack([each[step] for each in TARGET.split()])
        logits = model.step(tokens[:, None], state)
        near(logits, torch.stack([model.predict_tokens(each[step]) for each in hidden.split([4, 6, 2])]))
    # Two tokens at once are as good.
    both = torch.stack([each[:2] for each in TARGET.split()])
    near(model.step(both, model.start(SOURCE)), logits)


def test_beams_share_the_memory_of_their_source():
    model, target = make(), torch.tensor([[3, 4], [5, 6], [7, 8], [9, 10]])
    state = model.start(Sequences.of(SOURCE.split()[:2]))
    read = state.memories[0].key
    state.reorder(torch.tensor([0, 0, 1, 1]))
    model.step(target[:, :1], state)
    state.reorder(torch.tensor([1, 1, 2, 2]))
    assert state.memories[0].key is read
    source_of = {
        (1, 2, 2, 1): [(0, 1), (1, 2), (1, 2), (0, 1)],
        (3, 1): [(1, 2), (0, 1)],
        (3, 2, 0): [(1, 2), (1, 2), (0, 1)],
    }
    for rows, wanted in source_of.items():
        fresh = model.start(Sequences.of(SOURCE.split()[:2]))
        fresh.reorder(torch.tensor([0, 0, 1, 1]))
        model.step(target[:, :1], fresh)
        fresh.reorder(torch.tensor([1, 1, 2, 2]))
        fresh.reorder(torch.tensor(rows))
        logits = model.step(target[: len(rows), 1:], fresh)
        for row, (source, first) in enumerate(wanted):
            tokens = torch.stack((target[first, 0], target[row, 1]))
            alone = model(Sequences.of([SOURCE.split()[source]]), Sequences.of([tokens]))
            near(logits[row], model.predict_tokens(alone[1]))


def test_the_source_is_projected_once():
    model, calls = make(), []
    for layer in model.decoder:
        layer.cross.key.register_forward_hook(lambda *_: calls.append(1))
    state = model.start(SOURCE)
    for _ in range(3):
        model.step(torch.ones(3, 1, dtype=torch.long), state)
    assert len(calls) == 2


@every_choice
def test_maps_are_of_what_was_computed(choices):
    model = make(**choices)
    found = model.with_maps(SOURCE, TARGET)
    near(found.hidden, model(SOURCE, TARGET))
    for maps, queries, keys in (
        (found.encoder, SOURCE, SOURCE),
        (found.decoder, TARGET, TARGET),
        (found.cross, TARGET, SOURCE),
    ):
        assert len(maps) == 2
        for seen in maps:
            weights = seen.dense()[0]
            assert weights.shape == (2, len(queries.tokens), len(keys.tokens))
            apart = queries.rows[:, None] != keys.rows
            assert weights[:, apart].eq(0).all()
            near(weights.sum(-1), torch.ones_like(weights[..., 0]))
    later = TARGET.positions[:, None] < TARGET.positions
    assert found.decoder[0].dense()[0][:, later].eq(0).all()


@every_choice
def test_gradients_reach_every_parameter(choices):
    model = make(**choices).train()
    total, count = model.loss(SOURCE, TARGET, TARGET.tokens)
    assert count == 12
    total.backward()
    missing = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
    # Softmax does not see what is added to all scores of a row: keys need no bias.
    assert [name for name in missing if not name.endswith("key.bias")] == []


def test_the_future_reaches_nothing():
    model = make()
    changed = TARGET.tokens.clone()
    changed[3] = (changed[3] + 1) % 20
    before, after = model(SOURCE, TARGET), model(SOURCE, Sequences(changed, TARGET.lengths))
    same = torch.arange(12) != 3
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[3], after[3])


def test_loss_is_cross_entropy_and_smooth_while_training():
    model = make(TransformerConfig(**{**vars(CONFIG), "smoothing": 0.1}))
    targets = TARGET.tokens.clone()
    targets[5:] = -1
    given = {"target": targets, "ignore_index": -1, "reduction": "sum"}
    logits = model.predict_tokens(model(SOURCE, TARGET))
    total, count = model.loss(SOURCE, TARGET, targets)
    near(total, nn.functional.cross_entropy(logits, **given))
    assert count == 5
    smoothed = model.train().loss(SOURCE, TARGET, targets)[0]
    near(smoothed, nn.functional.cross_entropy(logits, **given, label_smoothing=0.1))


def test_one_matrix_for_source_target_and_output():
    model = make()
    tables = [name for name, each in model.named_parameters() if each.shape == (20, 8)]
    assert tables == ["embedding.weight"]
    assert torch.equal(model.predict_tokens(torch.eye(8).double()), model.embedding.weight.T)


def test_batch_norm_learns_running_statistics():
    model = make(placement=post_norm(batch_norm())).train()
    norm = model.encoder[0].attention_residual.norm
    before = norm.running_mean.clone()
    model(SOURCE, TARGET)
    assert not torch.equal(norm.running_mean, before)


def test_dropout_acts_while_training():
    model = make(TransformerConfig(**{**vars(CONFIG), "dropout": 0.5})).train()
    assert not torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: TransformerConfig(heads=3), errors.ArgumentError, "heads must divide the width 512; got 3"),
        (lambda: TransformerConfig(layers=0), errors.ArgumentError, "TransformerConfig: layers must be >= 1; got 0"),
        (lambda: TransformerConfig(smoothing=1.5), errors.ArgumentError, r"smoothing must lie in \[0, 1\]; got 1.5"),
        (
            lambda: make()(SOURCE, sequences(1, seed=0)),
            errors.ShapeError,
            "target must have a sequence for each of the 3",
        ),
        (
            lambda: make()(SOURCE, Sequences(torch.tensor([1, 2]), torch.tensor([1, 1, 0]))),
            errors.ArgumentError,
            r"Transformer: target.lengths must be >= 1; got 0 \(an empty sequence\)",
        ),
        (
            lambda: make().start(Sequences(torch.tensor([20]), torch.tensor([1]))),
            errors.ArgumentError,
            "Transformer.start: source.tokens must lie in 0..19; got 20",
        ),
        (
            lambda: make().step(torch.ones(2, 1, dtype=torch.long), make().start(SOURCE)),
            errors.ShapeError,
            r"Transformer.step: tokens must have the shape \[3, new\], new >= 1; got \[2, 1\]",
        ),
        (
            lambda: make().loss(SOURCE, TARGET, TARGET.tokens[1:]),
            errors.ShapeError,
            r"Transformer.loss: targets must have one for each of the 12 tokens of the target; got \[11\]",
        ),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.unhooked
def test_choices_that_are_none():
    with pytest.raises(errors.KindError, match="Transformer: positions must be positions of qkv; got 'rotary'"):
        make(positions="rotary")


@pytest.mark.slow
def test_learns_to_copy():
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary=7, width=32, layers=1, heads=4, feed_forward=64, dropout=0.0)
    assert copying(Transformer(config, placement=pre_norm(layer_norm())), steps=200, rate=5e-3) >= 0.95
