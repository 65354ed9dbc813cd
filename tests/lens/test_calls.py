"""Every attention call of a model passes the lens, and the model is left as it was."""

import contextvars
import threading

import pytest
import torch
from architectures import DECODERS, ENCODERS, PAIRS, RAGGED, TOKENS, tiny

import qkv
from qkv.errors import ArgumentError, KindError
from qkv.lens.calls import _given, intercepted
from qkv.mechanisms.luong import GlobalAttention
from qkv.text.batching import Sequences

GPT = qkv.GptConfig(vocabulary=20, width=16, layers=2, heads=2, feed_forward=32, positions=16)
WORDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return qkv.Gpt(GPT).eval()


def untouched(model):
    return not any({"attend", "attend_with_map", "rows_of_kernels"} & set(vars(module)) for module in model.modules())


class Notes:
    """Notes every call, and lets it run."""

    def __init__(self, **changed):
        self.calls, self.changed = [], changed

    def __call__(self, call, run):
        self.calls.append(call)
        return run(**self.changed)


def test_own_modules_pass_and_give_the_same_bits(gpt):
    with torch.no_grad():
        expected, notes = gpt(WORDS), Notes()
        with intercepted(gpt, notes):
            assert torch.equal(gpt(WORDS), expected)
            assert torch.equal(gpt.encode(WORDS).hidden[-1], gpt.encode(WORDS).hidden[-1])
    assert [(call.name, call.layer, call.kind) for call in notes.calls[:2]] == [
        ("layers.0.attention", 0, "self"),
        ("layers.1.attention", 1, "self"),
    ]
    assert len(notes.calls) == 6 and notes.calls[0].query.shape == (2, 2, 7, 8)
    assert isinstance(notes.calls[0].given["mask"], qkv.Mask) and notes.calls[0].module is gpt.layers[0].attention
    assert untouched(gpt)


def test_what_is_changed_is_what_the_model_goes_on_with(gpt):
    own = torch.eye(7, dtype=torch.bool)
    with torch.no_grad(), intercepted(gpt, Notes(mask=own)):
        alone, seen = gpt(WORDS), gpt.encode(WORDS)
    torch.testing.assert_close(gpt(WORDS[:, 3:4], positions=torch.tensor([3])), alone[:, 3:4])
    torch.testing.assert_close(seen.maps[1].dense(), own.float().expand(2, 2, 7, 7))
    with intercepted(gpt, lambda call, run: torch.zeros_like(call.query)):
        assert gpt.encode(WORDS).maps[0].shape == (2, 2, 7, 7)


def test_lenses_nest(gpt):
    order, zeros = [], torch.zeros(2, 2, 7, 8)
    with intercepted(gpt, lambda call, run: order.append("outer") or run(value=zeros)):
        with intercepted(gpt, lambda call, run: order.append(float(call.value.abs().sum())) or run()):
            gpt(WORDS)
        assert not untouched(gpt)
        gpt(WORDS)
    assert order == ["outer", 0.0] * 2 + ["outer"] * 2
    assert untouched(gpt)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_the_model_is_restored_whatever_happens(gpt, error):
    from transformers import AttentionInterface

    before = AttentionInterface.get_interface
    with pytest.raises(error), intercepted(gpt, Notes()):
        gpt(WORDS)
        raise error
    assert untouched(gpt) and AttentionInterface.get_interface is before


def test_another_thread_is_not_seen(gpt):
    notes = Notes()
    with intercepted(gpt, notes):
        thread = threading.Thread(target=gpt, args=(WORDS,))
        thread.start()
        thread.join()
        assert not notes.calls
        # A thread that is given this context, as asyncio.to_thread gives it, is.
        thread = threading.Thread(target=contextvars.copy_context().run, args=(gpt, WORDS))
        thread.start()
        thread.join()
    assert len(notes.calls) == 2


def test_steps_of_generation_pass_the_modules():
    torch.manual_seed(0)
    wide = qkv.Gpt(qkv.GptConfig(vocabulary=20, width=32, layers=1, heads=2, feed_forward=32, positions=16)).eval()
    state, notes = wide.start(), Notes()
    for tokens in (WORDS, WORDS[:, :1], WORDS[:, :1]):
        expected = wide.step(tokens, state)
    state = wide.start()
    with intercepted(wide, notes):
        for tokens in (WORDS, WORDS[:, :1], WORDS[:, :1]):
            got = wide.step(tokens, state)
    torch.testing.assert_close(got, expected)
    assert [call.key.shape[-2] for call in notes.calls] == [7, 8, 9]


def test_other_mechanisms_pass():
    torch.manual_seed(0)
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    for attention in (
        qkv.Bahdanau(8, 8, 6), GlobalAttention(qkv.dot()), qkv.LocalMonotonic(qkv.dot(), 2),
        qkv.LocalPredictive(8, qkv.dot(), 2), qkv.Luong(8, 8, GlobalAttention(qkv.dot())),
    ):  # fmt: skip
        notes, expected = Notes(), attention(query, memory)
        with intercepted(attention, notes):
            assert torch.equal(attention(query, memory), expected)
            attention.with_map(query, memory)
        assert [call.kind for call in notes.calls] == ["cross", "cross"]
    annotations, notes = qkv.Bahdanau(8, 8, 6).read(memory), Notes()
    with intercepted(annotations.attention, notes):
        annotations(query), annotations.with_map(query)
    assert len(notes.calls) == 2


def test_both_stacks_of_a_translator():
    torch.manual_seed(0)
    config = qkv.TransformerConfig(vocabulary=20, width=16, layers=2, heads=2, feed_forward=32)
    model, notes = qkv.Transformer(config).eval(), Notes()
    source, target = (Sequences.of(map(torch.tensor, rows)) for rows in ([[1, 2, 3], [4, 5]], [[1, 2], [3]]))
    with intercepted(model, notes):
        model(source, target)
    assert [(call.name, call.layer, call.kind) for call in notes.calls] == [
        ("encoder.0.attention", 0, "self"), ("encoder.1.attention", 1, "self"),
        ("decoder.0.attention", 0, "self"), ("decoder.0.cross", 0, "cross"),
        ("decoder.1.attention", 1, "self"), ("decoder.1.cross", 1, "cross"),
    ]  # fmt: skip


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "qkv"])
@pytest.mark.parametrize(
    "name", ["bert", "gpt2", "llama", "mistral, a window", "gemma2, a window and soft caps", "gpt-oss, sinks"]
)
def test_models_of_transformers_pass(name, implementation):
    pytest.importorskip("transformers")
    qkv.register()
    if name in ("gpt-oss, sinks", "gemma2, a window and soft caps") and implementation == "sdpa":
        pytest.skip("transformers has no such path")
    model, notes = tiny((ENCODERS | DECODERS)[name], implementation), Notes()
    with torch.no_grad():
        expected = model(TOKENS, attention_mask=RAGGED)[0]
        with intercepted(model, notes) as lens:
            assert torch.equal(model(TOKENS, attention_mask=RAGGED)[0], expected)
        assert not lens.refused and len(notes.calls) == 2
        # Said in the words of `attend`, it is the same attention.
        again = Notes(dropout=0.0)
        with intercepted(model, again):
            got = model(TOKENS, attention_mask=RAGGED)[0]
    torch.testing.assert_close(got[RAGGED.bool()], expected[RAGGED.bool()], rtol=0, atol=1e-5)
    assert {call.kind for call in notes.calls} == {"self"}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_stacks_pass(name):
    pytest.importorskip("transformers")
    model, notes = tiny(PAIRS[name], "eager"), Notes()
    with torch.no_grad(), intercepted(model, notes):
        model(TOKENS, attention_mask=RAGGED, decoder_input_ids=TOKENS[:, :5])
    assert [(call.kind, call.layer) for call in notes.calls] == [
        ("self", 0), ("self", 1), ("self", 0), ("cross", 0), ("self", 1), ("cross", 1),
    ]  # fmt: skip


def test_what_cannot_be_said_runs_untouched_and_is_named():
    pytest.importorskip("transformers")
    model, notes = tiny(DECODERS["llama"]), Notes()
    with torch.no_grad():
        expected = model(TOKENS).logits
        with intercepted(model, notes) as lens:
            assert torch.equal(model(TOKENS, kernel_options=torch.ones(1)).logits, expected)
    assert not notes.calls and set(lens.refused) == {"model.layers.0.self_attn", "model.layers.1.self_attn"}
    assert "must be among what qkv knows; got kernel_options" in lens.refused["model.layers.0.self_attn"]


@pytest.mark.unhooked
def test_bad_arguments_are_refused(gpt):
    for model, around, text in (
        (3, Notes(), r"^intercepted: model must be a torch\.nn\.Module; got int$"),
        (gpt, 3, r"^intercepted: around must be a function of call and run; got int$"),
    ):
        with pytest.raises(KindError, match=text), intercepted(model, around):
            pass
    unknown = r"^run: what is changed must be of query, key, .*, dropout; got weights$"
    with pytest.raises(ArgumentError, match=unknown), intercepted(gpt, Notes(weights=1)):
        gpt(WORDS)


def test_what_flash_and_flex_attention_are_told():
    from torch.nn.attention.flex_attention import create_block_mask

    module, query, key = torch.nn.Linear(1, 1), torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8)
    module.is_causal = True
    kept = torch.arange(7) < torch.tensor([[7], [4]])
    given = _given("flash_attention_2", module, query, key, kept.long(), (), {"sliding_window": 3})
    expected = qkv.causal() & qkv.window(3) & qkv.padding(keys=kept)
    assert torch.equal(given["mask"].dense(5, 7, batch=(2,)), expected.dense(5, 7, batch=(2,)))
    assert _given("flash_attention_2", module, query, key, None, (), {"is_causal": False})["mask"] is None
    blocks = create_block_mask(lambda b, h, q, k: k <= q + 2, 2, None, 5, 7, device="cpu")
    given = _given("flex_attention", module, query, key, blocks, (), {"scaling": 0.5})
    assert torch.equal(given["mask"].dense(5, 7, batch=(2,)).expand(2, 1, 5, 7), blocks_dense(5, 7))
    assert _given("flex_attention", module, query, key, None, (), {})["mask"] is None
    assert _given("sdpa", module, query, query, None, (), {})["mask"] == qkv.causal()
    # An empty store is longer than the queries, which stand at its start.
    assert _given("sdpa", module, query, key, None, (), {})["mask"] == qkv.causal(offset=0)
    assert _given("eager", module, query, query, None, (), {})["mask"] is None


def blocks_dense(queries, keys):
    return (torch.arange(keys) <= torch.arange(queries)[:, None] + 2).expand(2, 1, queries, keys)
