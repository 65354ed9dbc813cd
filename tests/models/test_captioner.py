"""Show, attend and tell: soft and hard, and what both promise."""

from dataclasses import replace

import pytest
import torch

from qkv import errors
from qkv.models.captioner import Captioner, CaptionerConfig, HardRegions, SoftRegions
from qkv.text.batching import Sequences

CONFIG = CaptionerConfig(
    vocabulary=7, height=8, width=16, channels=8, embedding=6, hidden=10, attention_width=5, dropout=0.0, expected=0.0
)
TOKENS = torch.tensor([[1, 3, 4, 5], [1, 4, 0, 0]])
TARGET = Sequences(torch.tensor([1, 3, 4, 5, 1, 4]), torch.tensor([4, 2]))
TARGETS = torch.tensor([3, 4, 5, 2, 4, 2])


def images(count=2):
    return torch.rand(count, 1, CONFIG.height, CONFIG.width, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=[SoftRegions(), HardRegions()], ids=["soft", "hard"])
def model(request):
    torch.manual_seed(0)
    return Captioner(CONFIG, request.param)


def test_shapes(model):
    logits, weights = model.eval()(images(), TOKENS)
    assert logits.shape == (2, 4, 7) and weights.shape == (2, 4, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4))


def test_step_by_step_is_the_whole(model):
    model.eval()
    logits, weights = model(images(), TOKENS)
    state = model.start(images())
    steps = [model.step(TOKENS[:, step : step + 1], state) for step in range(4)]
    assert torch.equal(torch.stack(steps, 1), logits)
    assert torch.equal(torch.stack(state.weights, 1), weights)
    state = model.start(images())
    assert torch.equal(model.step(TOKENS[:, :2], state), logits[:, 1])


def test_reordered_rows_go_on_as_what_they_became(model):
    model.eval()
    logits, _ = model(images(), TOKENS[[0, 0]])
    state = model.start(images())
    model.step(TOKENS[[0, 0], :1], state)
    state.reorder(torch.tensor([1, 1, 0]))
    torch.testing.assert_close(model.step(TOKENS[[0, 0, 0], 1:2], state), logits[[1, 1, 0], 1])
    assert state.weights[0].shape == (3, 8)


def test_what_follows_changes_nothing_before(model):
    model.eval()
    other = TOKENS.clone()
    other[:, 3] = 6
    assert torch.equal(model(images(), TOKENS)[0][:, :3], model(images(), other)[0][:, :3])


def test_padding_adds_nothing_to_the_loss(model):
    model.eval()
    both, count = model.loss(images(), TARGET, TARGETS)
    alone = [
        model.loss(images()[row : row + 1], Sequences.of([TARGET.split()[row]]), TARGETS.split([4, 2])[row])[0]
        for row in (0, 1)
    ]
    torch.testing.assert_close(both, sum(alone))
    assert count == 6


def test_the_soft_loss_by_its_definition():
    torch.manual_seed(0)
    model = Captioner(CONFIG)
    logits, weights = model(images(), TOKENS)
    words = torch.cat((logits[0], logits[1, :2]))
    rows = torch.nn.functional.cross_entropy(words, TARGETS, reduction="sum")
    seen = torch.stack([weights[0].sum(0), weights[1, :2].sum(0)])
    torch.testing.assert_close(model.loss(images(), TARGET, TARGETS)[0], rows + (1 - seen).square().sum())
    torch.testing.assert_close(model.losses(images(), TARGET, TARGETS)[:2], (rows, (1 - seen).square().sum()))
    assert model.eval().losses(images(), TARGET, TARGETS)[1] == 0


@pytest.mark.slow
def test_the_gradient_of_hard_attention_is_that_of_the_expected_loss():
    """One word, so that the reward is its log-likelihood: E[∇] = ∇ Σⱼ αⱼ · loss of looking at j."""
    torch.manual_seed(0)
    config = CaptionerConfig(
        vocabulary=4, height=4, width=12, channels=4, embedding=4, hidden=5, dropout=0.0, entropy=0.0, expected=0.0
    )
    model = Captioner(config, HardRegions()).double()
    with torch.no_grad():
        # What is seen matters, so that there is something to learn.
        model.from_context.weight.mul_(5)
        model.output.weight.mul_(5)
    picture, token, target = torch.rand(1, 1, 4, 12).double(), torch.tensor([[1]]), torch.tensor([2])
    word = Sequences.of(token)
    vector = model.attention.score.vector

    drawn = []
    for seed in range(1000):
        torch.manual_seed(seed)
        model.baseline.value.fill_(-2)
        (gradient,) = torch.autograd.grad(model.loss(picture, word, target)[0], vector)
        drawn.append(gradient)
    drawn = torch.stack(drawn)

    state = model.start(picture)
    _, choice = model.attention(state.hidden.unsqueeze(1), state.memory)
    weights = choice.map.dense()[0, 0, 0]
    losses = []
    for cell in range(3):
        one = model.start(picture)
        one.memory = one.memory[:, [cell] * 3]
        losses.append(-model._step(token[:, 0], one)[0].log_softmax(-1)[0, 2].detach())
    (expected,) = torch.autograd.grad((weights * torch.stack(losses)).sum(), vector)
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - expected).abs() < 4 * error + 1e-12).all()
    assert expected.abs().max() > 5 * error.max()


def test_expected_contexts_teach_hard_attention_as_soft_attention_is_taught():
    torch.manual_seed(0)
    drawn, looked = (
        Captioner(replace(CONFIG, expected=1.0), HardRegions()),
        Captioner(replace(CONFIG, double=0.0), SoftRegions()),
    )
    looked.load_state_dict(drawn.state_dict())
    with torch.no_grad():
        # Hard attention's context has no gate: here it is open.
        looked.gate.weight.zero_()
        looked.gate.bias.fill_(100)
    losses = [model.loss(images(), TARGET, TARGETS)[0] for model in (drawn, looked)]
    torch.testing.assert_close(*losses)
    first, second = (
        torch.autograd.grad(loss, list(model.attention.parameters()))
        for loss, model in zip(losses, (drawn, looked), strict=True)
    )
    torch.testing.assert_close(first, second)
    assert drawn.baseline.value == 0


def test_each_picture_draws_whether_its_contexts_are_expected_ones():
    torch.manual_seed(0)
    model = Captioner(replace(CONFIG, expected=0.5), HardRegions())
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        _, _, choices, expected = model._run(images(), TOKENS)
        assert len(choices) == 4
        seen.add(tuple(expected.tolist()))
    assert len(seen) == 4
    assert model.eval()._run(images(), TOKENS)[3] is None


def test_the_baseline_follows_the_rewards():
    torch.manual_seed(0)
    model = Captioner(CONFIG, HardRegions())
    assert model.baseline.value == 0
    model.loss(images(), TARGET, TARGETS)
    assert model.baseline.value < 0
    before = model.baseline.value.clone()
    model.eval().loss(images(), TARGET, TARGETS)
    assert torch.equal(model.baseline.value, before)


def test_gradients_reach_every_parameter(model):
    model.loss(images(), TARGET, TARGETS)[0].backward()
    silent = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum()]
    # Hard attention's context has no gate.
    assert silent == ([] if model.attention.__class__.__name__ == "Bahdanau" else ["gate.weight", "gate.bias"])


def test_no_targets(model):
    loss, count = model.loss(images(), TARGET, torch.full_like(TARGETS, -1))
    assert loss.isfinite() and count == 0


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"images": torch.rand(2, 1, 8, 12)},
            errors.ShapeError,
            "images must have the shape [batch, 1, 8, 16]; got [2, 1, 8, 12]",
        ),
        ({"images": 3}, errors.KindError, "images must be a tensor; got int"),
        (
            {"images": images().double()},
            errors.KindError,
            "images must have the weights' dtype torch.float32; got torch.float64",
        ),
        (
            {"tokens": TOKENS[:1]},
            errors.ShapeError,
            "tokens must have the shape [2, steps], a row for each picture; got [1, 4]",
        ),
        ({"tokens": TOKENS + 3}, errors.ArgumentError, "tokens must lie in 0..6; got 8"),
    ],
)
def test_what_does_not_fit(change, error, text):
    model = Captioner(CONFIG)
    given = {"images": images(), "tokens": TOKENS} | change
    with pytest.raises(error) as raised:
        model(**given)
    assert str(raised.value).startswith(f"Captioner: {text}")


@pytest.mark.unhooked
def test_targets_that_do_not_fit():
    with pytest.raises(errors.ShapeError, match=r"Captioner\.loss: targets must have one for each of the 6 tokens"):
        Captioner(CONFIG).loss(images(), TARGET, TARGETS[:3])


def test_a_picture_that_cannot_be_cut():
    with pytest.raises(errors.ArgumentError, match="CaptionerConfig: width must be a multiple of 4; got 30"):
        CaptionerConfig(vocabulary=4, height=8, width=30)


@pytest.mark.unhooked
def test_another_attention():
    with pytest.raises(errors.KindError, match="Captioner: attention must make Bahdanau or HardAttention; got Linear"):
        Captioner(CONFIG, lambda config: torch.nn.Linear(2, 2))


def draw_bars(count, seed):
    """Two 8 × 8 tiles side by side, each a bar that lies (3) or stands (4), or a square (5); read from the left."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(3, (count, 2), generator=generator)
    pictures = 0.1 * torch.rand(count, 1, 8, 16, generator=generator)
    shapes = torch.zeros(3, 8, 8)
    shapes[0, 3:5, 1:7] = shapes[1, 1:7, 3:5] = shapes[2, 2:6, 2:6] = 1
    for side in (0, 1):
        pictures[:, 0, :, 8 * side : 8 * side + 8] += shapes[kinds[:, side]]
    return pictures, kinds + 3


@pytest.mark.slow
@pytest.mark.parametrize("attention", [SoftRegions(), HardRegions()], ids=["soft", "hard"])
def test_it_learns_to_read_two_tiles(attention):
    torch.manual_seed(0)
    config = CaptionerConfig(
        vocabulary=7, height=8, width=16, channels=16, embedding=16, hidden=32, attention_width=16, dropout=0.0
    )
    model = Captioner(config, attention)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(300):
        pictures, words = draw_bars(32, step)
        start, end = torch.full((32, 1), 1), torch.full((32, 1), 2)
        target = Sequences.of(torch.cat((start, words), 1))
        loss = model.loss(pictures, target, torch.cat((words, end), 1).flatten())[0] / 96
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures, words = draw_bars(200, 10_000)
    state, token = model.eval().start(pictures), torch.full((200, 1), 1)
    read = []
    with torch.no_grad():
        for _ in range(2):
            token = model.step(token, state).argmax(-1, keepdim=True)
            read.append(token)
    assert (torch.cat(read, 1) == words).all(1).float().mean() >= 0.95
