"""What a model attends to is seen as it runs: own models and transformers', in training and generation."""

import pytest
import torch
from architectures import DECODERS, ENCODERS, PAIRS, PICTURE, PICTURES, RAGGED, SIZES, TOKENS, tiny
from torch import nn

import qkv
from qkv.errors import ArgumentError, KindError, UnsupportedError
from qkv.models.captioner import Captioner, CaptionerConfig, HardRegions
from qkv.text.batching import Sequences

WORDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0))


def gpt(**choices):
    torch.manual_seed(0)
    return qkv.Gpt(
        qkv.GptConfig(vocabulary=20, width=16, layers=2, heads=2, feed_forward=32, positions=32), **choices
    ).eval()


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def pairs(*texts):
    return Sequences.of(torch.tensor(text) for text in texts)


# Own models


@pytest.mark.parametrize("positions", [None, qkv.rotary(), qkv.alibi(heads=2)])
def test_the_maps_are_those_that_the_model_gives(positions):
    model, mask = gpt(positions=positions), qkv.padding(keys=torch.tensor([7, 4]))
    with torch.no_grad():
        expected = model.encode(WORDS, mask=mask)
        with qkv.watch(model) as seen:
            assert torch.equal(model(WORDS, mask=mask), expected.hidden[-1])
    assert seen.names == ["layers.0.attention", "layers.1.attention"] and not seen.unseen and len(seen) == 2
    for layer in (0, 1):
        close(seen[layer].dense(), expected.maps[layer].dense())
    assert repr(seen) == "Seen(self layers: [0, 1])"


@pytest.mark.parametrize("positions", [None, qkv.rotary(), qkv.alibi(heads=2)])
@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 4])])
def test_each_step_of_generation_joins_the_map(positions, lengths):
    model, new = gpt(positions=positions), torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        with qkv.watch(model) as seen:
            state = model.start(lengths)
            model.step(WORDS, state)
            for step in new.unbind(1):
                model.step(step[:, None], state)
        assert seen[1].shape == (2, 2, 10, 10)
        for row, length in enumerate((7, 7) if lengths is None else (7, 4)):
            text = torch.cat((WORDS[row, :length], new[row]))[None]
            whole = model.encode(text).maps[1].dense()[0]
            rows = [*range(length), 7, 8, 9]
            close(seen[1].dense()[row][:, rows, : length + 3], whole)


def test_beams_move_their_past_along():
    model = gpt()
    with torch.no_grad(), qkv.watch(model) as seen:
        state = model.start()
        model.step(WORDS, state)
        model.step(WORDS[:, :1], state)
        state.reorder(torch.tensor([1, 1]))
        model.step(WORDS[:, 1:2], state)
    text = torch.cat((WORDS[1:], WORDS[1:, :1], WORDS[1:, 1:2]), 1)
    for layer in (0, 1):
        close(seen[layer].dense()[1:], model.encode(text).maps[layer].dense())


def test_a_new_text_takes_the_place_of_the_last():
    model = gpt()
    with torch.no_grad(), qkv.watch(model) as seen:
        model(WORDS)
        model(WORDS[:, :3])
        first = seen[0].dense()
        state = model.start()
        model.step(WORDS[:1], state)
        model.step(WORDS[:1, :1], state)
        assert seen[0].shape == (1, 2, 8, 8)
        state = model.start()
        model.step(WORDS[:1, :2], state)
    assert first.shape == (2, 2, 3, 3) and seen[0].shape == (1, 2, 2, 2)


def test_some_layers_heads_and_queries_are_kept():
    model = gpt(positions=qkv.alibi(heads=2))
    whole = model.encode(WORDS).maps[1].dense()
    with qkv.watch(model, layers=1, heads=[1], queries=range(2, 6)) as seen:
        model(WORDS)
    assert list(seen.layers) == [1] and not seen.unseen
    close(seen[1].dense(), whole[:, 1:, 2:6])
    with torch.no_grad(), qkv.watch(model, queries=[1, 8]) as seen:
        state = model.start()
        for tokens in (WORDS, WORDS[:, :1], WORDS[:, 1:2]):
            model.step(tokens, state)
    close(seen[1].dense(), model.encode(torch.cat((WORDS, WORDS[:, :2]), 1)).maps[1].dense()[:, :, [1, 8]])


def test_training_goes_on_as_it_would():
    losses = []
    for watched in (False, True):
        model = gpt(score=lambda: qkv.Bilinear(8, 8))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            with qkv.watch(model) if watched else torch.enable_grad() as seen:
                loss, _ = model.loss(WORDS[:, :-1], WORDS[:, 1:])
                before = model.encode(WORDS[:, :-1]).maps[0].dense().detach()
                loss.backward()
                optimiser.step()
                optimiser.zero_grad()
            losses.append(loss.detach())
    assert torch.equal(losses[1], losses[3])
    # As it was when it ran, and no part of a graph.
    close(seen[0].dense(), before)
    assert not seen[0].query.requires_grad


def test_what_is_kept_is_linear():
    model = gpt()
    with qkv.watch(model) as seen:
        model(WORDS.repeat(1, 4))
    track = next(iter(seen._watching.tracks.values()))
    numbers = [*track.queries, track.store, *(x for rows in track.rows for x in (rows.spans.start, rows.spans.stop))]
    assert all(x.numel() <= 2 * 28 * 16 for x in numbers) and all(rows.mask is None for rows in track.rows)


def test_what_is_kept_of_relative_positions_is_linear():
    pytest.importorskip("transformers")
    model = tiny(PAIRS["t5, relative positions"], "sdpa")
    with torch.no_grad(), qkv.watch(model) as seen:
        model(TOKENS, attention_mask=RAGGED, decoder_input_ids=TOKENS[:, :5])
    tables = [rows.bias.table.shape for track in seen._watching.tracks.values() for rows in track.rows]
    assert set(tables) == {(1, 4, 17), (1, 4, 9), (1, 4, 13)}


def test_a_translator_has_three_stacks():
    torch.manual_seed(0)
    model = qkv.Transformer(qkv.TransformerConfig(vocabulary=20, width=16, layers=2, heads=2, feed_forward=32)).eval()
    source, target = pairs([1, 2, 3], [4, 5]), pairs([1, 2], [3])
    expected = model.with_maps(source, target)
    with qkv.watch(model) as seen:
        assert torch.equal(model(source, target), expected.hidden)
    for part in ("encoder", "decoder", "cross"):
        for layer, theirs in enumerate(getattr(expected, part)):
            close(getattr(seen, part)[layer].dense(), theirs.dense())
    close(seen["decoder.1.cross"].dense(), expected.cross[1].dense())
    with pytest.raises(
        ArgumentError, match=r"^Seen\[…\]: the model must have one stack for seen\.layers; got self att"
    ):
        seen[0]
    # Step by step, from one reading of the source.
    with torch.no_grad(), qkv.watch(model) as seen:
        state = model.start(pairs([1, 2, 3]))
        for token in (1, 2):
            model.step(torch.tensor([[token]]), state)
    whole = model.with_maps(pairs([1, 2, 3]), pairs([1, 2]))
    close(seen.cross[1].dense(), whole.cross[1].dense())
    close(seen.decoder[1].dense(), whole.decoder[1].dense())
    assert not seen.unseen


@pytest.mark.parametrize("decoder", ["LookThenStep", "StepThenLook", "InputFed"])
def test_recurrent_translators(decoder):
    from qkv.models import recurrent

    torch.manual_seed(0)
    model = recurrent.Recurrent(
        recurrent.RecurrentConfig(vocabulary=20, width=8), decoder=getattr(recurrent, decoder)
    ).eval()
    source, target = pairs([1, 2, 3], [4, 5]), pairs([1, 2], [3, 4])
    with torch.no_grad():
        vectors, weights = model.with_alignment(source, target)
        with qkv.watch(model) as seen:
            model(source, target)
            assert torch.equal(model(source, target), vectors)
        close(seen[0].dense().squeeze(1), weights)
        with qkv.watch(model) as seen:
            state = model.start(source)
            for token in (torch.tensor([[1], [3]]), torch.tensor([[2], [4]])):
                model.step(token, state)
        close(seen.cross[0].dense().squeeze(1), weights)


def test_captioners():
    torch.manual_seed(0)
    config = CaptionerConfig(vocabulary=10, height=8, width=8, channels=4, embedding=4, hidden=8, attention_width=4)
    model, images = Captioner(config).eval(), torch.rand(2, 1, 8, 8)
    _, weights = model(images, torch.tensor([[1, 2, 3], [1, 4, 5]]))
    with qkv.watch(model) as seen:
        model(images, torch.tensor([[1, 2, 3], [1, 4, 5]]))
    close(seen[0].dense().squeeze(1), weights)
    hard = Captioner(config, HardRegions()).eval()
    text = r"got none \(attention: HardAttention computes its weights itself, and its result holds them\)$"
    with pytest.raises(UnsupportedError, match=text), qkv.watch(hard):
        hard(images, torch.tensor([[1], [1]]))


# transformers' models


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "qkv"])
@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_models_of_transformers(name, implementation):
    pytest.importorskip("transformers")
    qkv.register()
    case = (ENCODERS | DECODERS)[name]
    if implementation == "sdpa" and name in ("gpt-oss, sinks", "gemma2, a window and soft caps"):
        pytest.skip("transformers has no such path")
    model, eager = tiny(case, implementation), tiny(case)
    for shown in (RAGGED, RAGGED.flip(1)):
        with torch.no_grad():
            expected = eager(TOKENS, attention_mask=shown, output_attentions=True).attentions
            plain = model(TOKENS, attention_mask=shown)[0]
            with qkv.watch(model) as seen:
                assert torch.equal(model(TOKENS, attention_mask=shown)[0], plain)
        assert len(seen) == len(expected) == 2 and not seen.unseen
        for layer, theirs in enumerate(expected):
            real = shown.bool()
            close(seen[layer].dense().transpose(1, 2)[real], theirs[..., :9].transpose(1, 2)[real])


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "qkv"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral, a window", "gpt-oss, sinks"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("padded", ["left", "right"])
def test_generation_of_transformers(name, implementation, cache, padded):
    pytest.importorskip("transformers")
    qkv.register()
    if implementation == "sdpa" and name == "gpt-oss, sinks":
        pytest.skip("transformers has no such path")
    model, shown = tiny(DECODERS[name], implementation), RAGGED.flip(1) if padded == "left" else RAGGED
    with torch.no_grad():
        given = {"attention_mask": shown, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        given |= {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
        plain = model.generate(TOKENS, **given)
        with qkv.watch(model) as seen:
            made = model.generate(TOKENS, **given)
        assert torch.equal(made, plain)
        told = {"output_attentions": True, "return_dict_in_generate": True}
        steps = tiny(DECODERS[name]).generate(TOKENS, **given, **told).attentions
    # The last token is not read again.
    real = torch.cat((shown, torch.ones(2, 5, dtype=shown.dtype)), 1).bool()
    assert not seen.unseen
    for layer in (0, 1):
        # A static cache has room for more keys than there are, and a window of one for fewer.
        got, start = seen[layer].dense(), 0
        assert got.shape == (2, 4, 14, 14)
        for theirs in (step[layer][..., :14] for step in steps):
            rows, keys = slice(start, start + theirs.shape[-2]), theirs.shape[-1]
            row = real[:, rows]
            stop = max(rows.stop, keys)
            part = got[:, :, rows, stop - keys : stop]
            close(part.transpose(1, 2)[row], theirs.transpose(1, 2)[row])
            start = rows.stop
        assert start == 14


@pytest.mark.parametrize("name", ["llama", "gpt-oss, sinks"])
def test_some_heads_of_shared_keys_and_of_sinks(name):
    pytest.importorskip("transformers")
    model = tiny(DECODERS[name])
    with torch.no_grad(), qkv.watch(model, heads=[1, 2], queries=[0, 8]) as seen:
        expected = model(TOKENS, output_attentions=True).attentions
    for layer, theirs in enumerate(expected):
        close(seen[layer].dense(), theirs[:, 1:3, [0, 8], :9])


def test_one_of_the_layers_that_share_a_module():
    pytest.importorskip("transformers")
    model = tiny(ENCODERS["albert, one layer used twice"])
    with torch.no_grad(), qkv.watch(model, layers=[1]) as seen:
        expected = model(TOKENS, output_attentions=True).attentions
    assert list(seen.layers) == [1]
    close(seen[1].dense(), expected[1])


@pytest.mark.parametrize("implementation", ["eager", "qkv"])
def test_a_layer_that_attends_twice_is_one_layer(implementation):
    transformers = pytest.importorskip("transformers")
    qkv.register()
    # Its values come in halves, each weighed by the same map.
    numbers = {**SIZES, "num_hidden_layers": 3, "num_key_value_heads": 2}
    case = ("DiffLlamaConfig", "DiffLlamaForCausalLM", numbers)
    model = tiny(case, implementation)
    assert type(model) is transformers.DiffLlamaForCausalLM
    with torch.no_grad():
        expected = tiny(case)(TOKENS, output_attentions=True).attentions
        with qkv.watch(model) as seen:
            model(TOKENS)
        assert list(seen.layers) == [0, 1, 2] and len(seen) == 3 and not seen.unseen
        for layer, theirs in enumerate(expected):
            close(seen[layer].dense(), theirs)
        with qkv.watch(model, layers=[2]) as seen:
            made = model.generate(TOKENS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        expected = tiny(case)(made[:, :-1], output_attentions=True).attentions
    close(seen[2].dense(), expected[2])


def test_keys_that_are_no_numbers_are_joined():
    pytest.importorskip("transformers")
    model = tiny(DECODERS["llama"])
    with torch.no_grad(), qkv.watch(model) as seen:
        model.model.layers[1].self_attn.k_proj.weight[3] = float("nan")
        model.generate(TOKENS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert seen[0].shape == seen[1].shape == (2, 4, 12, 12) and not seen.unseen


def test_groups_of_layers_that_share_a_module():
    pytest.importorskip("transformers")
    config, model, numbers = ENCODERS["albert, one layer used twice"]
    model = tiny((config, model, {**numbers, "num_hidden_layers": 4, "num_hidden_groups": 2}))
    with torch.no_grad(), qkv.watch(model) as seen:
        expected = model(TOKENS, output_attentions=True).attentions
    assert list(seen.layers) == [0, 1, 2, 3]
    for layer, theirs in enumerate(expected):
        close(seen[layer].dense(), theirs)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_what_a_checkpoint_computes_again_is_no_other_layer(use_reentrant):
    pytest.importorskip("transformers")
    model = tiny(DECODERS["llama"]).train()
    expected = model(TOKENS, output_attentions=True).attentions
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    with qkv.watch(model) as seen:
        model(TOKENS, labels=TOKENS).loss.backward()
    assert list(seen.layers) == [0, 1] and not seen.unseen
    for layer, theirs in enumerate(expected):
        close(seen[layer].dense(), theirs.detach())


def test_beams_of_transformers():
    pytest.importorskip("transformers")
    model = tiny(DECODERS["gpt2"], "sdpa")
    with torch.no_grad(), qkv.watch(model) as seen:
        model.generate(TOKENS[:1], max_new_tokens=5, min_new_tokens=5, num_beams=3, do_sample=False)
        assert seen[1].shape == (3, 4, 13, 13) and not seen.unseen
        weights = seen[1].dense()
    # Whatever beams the search kept, the map of each is that of the text that its keys and queries were made of.
    close(weights.sum(-1), torch.ones(3, 4, 13))
    assert torch.equal(weights, weights.tril())
    prompt = tiny(DECODERS["gpt2"])(TOKENS[:1], output_attentions=True).attentions[1]
    close(weights[..., :9, :9], prompt.detach().expand(3, 4, 9, 9))


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_transformers(name):
    pytest.importorskip("transformers")
    model, eager = tiny(PAIRS[name], "sdpa"), tiny(PAIRS[name])
    given = {"attention_mask": RAGGED, "decoder_input_ids": TOKENS[:, :5]}
    with torch.no_grad():
        expected = eager(TOKENS, **given, output_attentions=True)
        with qkv.watch(model) as seen:
            for _ in range(2):
                model(TOKENS, **given)
    for part in ("encoder", "decoder", "cross"):
        for layer, theirs in enumerate(expected[f"{part}_attentions"]):
            rows = RAGGED.bool() if part == "encoder" else slice(None)
            close(getattr(seen, part)[layer].dense().transpose(1, 2)[rows], theirs.transpose(1, 2)[rows])
    with torch.no_grad():
        with qkv.watch(model) as seen:
            made = model.generate(TOKENS, attention_mask=RAGGED, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        assert not seen.unseen
        expected = eager(TOKENS, attention_mask=RAGGED, decoder_input_ids=made[:, :-1], output_attentions=True)
    for part in ("decoder", "cross"):
        for layer, theirs in enumerate(expected[f"{part}_attentions"]):
            close(getattr(seen, part)[layer].dense(), theirs)


def test_pictures():
    pytest.importorskip("transformers")
    model = tiny(PICTURES["vit"], "sdpa")
    with torch.no_grad(), qkv.watch(model) as seen:
        model(PICTURE)
        expected = tiny(PICTURES["vit"])(PICTURE, output_attentions=True).attentions
    close(seen[1].dense(), expected[1])


# What is not seen, or in part


def test_a_stack_that_runs_twice_in_one_pass_has_the_layers_it_has():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = gpt()

        def forward(self, first, second):
            return self.model(first), self.model(second)

    both = Both()
    with torch.no_grad(), qkv.watch(both) as seen:
        both(WORDS, WORDS[:, :3])
    maps = [both.model.encode(words).maps[1].dense() for words in (WORDS, WORDS[:, :3])]
    assert list(seen.layers) == [0, 1]
    close(seen[1].dense(), maps[0])
    close(seen["model.layers.1.attention#2"].dense(), maps[1])


def test_layers_that_attend_by_themselves_are_named():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    bloom = transformers.BloomModel(transformers.BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=4)).eval()
    text = (
        r"^watch: the model must have attention that can be recorded; got none \(h\.0\.self_attention: BloomAttention "
        r"computes attention itself, not by transformers' attention functions; h\.1\."
    )
    with pytest.raises(UnsupportedError, match=text), qkv.watch(bloom):
        bloom(TOKENS)
    both = nn.ModuleList([gpt(), bloom])
    with qkv.watch(both) as seen:
        both[0](WORDS)
        both[1](TOKENS)
    assert set(seen.unseen) == {"1.h.0.self_attention", "1.h.1.self_attention"} and len(seen.names) == 2


def test_rows_that_are_not_joined_are_named():
    model = gpt()
    with torch.no_grad():
        state = model.start()
        model.step(WORDS, state)
        with qkv.watch(model) as seen:
            model.step(WORDS[:, :1], state)
            model.step(WORDS[:, :1], state)
            why = "only in part: the first 7 keys belong to no query seen (they are older than the block, "
            assert seen[1].shape == (2, 2, 2, 9)
            assert list(seen.unseen) == ["layers.0.attention", "layers.1.attention"]
            assert all(reason.startswith(why) for reason in seen.unseen.values())
            model(WORDS)
    assert not seen.unseen
    pytest.importorskip("transformers")
    pair = tiny(PAIRS["bart"])
    with torch.no_grad():
        start = pair(TOKENS, decoder_input_ids=TOKENS[:, :4])
        with qkv.watch(pair) as seen:
            pair(
                encoder_outputs=(start.encoder_last_hidden_state,),
                decoder_input_ids=TOKENS[:, :1],
                past_key_values=start.past_key_values,
            )
    assert "model.decoder.layers.1.encoder_attn" in seen.unseen and "model.decoder.layers.1.self_attn" in seen.unseen
    assert seen.unseen["model.decoder.layers.1.encoder_attn"].startswith("only in part: the decoder goes on")


@pytest.mark.compile
@pytest.mark.parametrize("whole", [True, False])
def test_compiled_code_is_said_to_be_unseen(whole):
    pytest.importorskip("transformers")
    model = tiny(DECODERS["llama"], "sdpa")
    layers = model.model.layers
    if whole:
        compiled = torch.compile(model, backend="eager")
    else:
        layers[0], compiled = torch.compile(layers[0], backend="eager"), model
    text = r"it is compiled, and compiled code cannot be seen \(watch and run it as it was before torch\.compile"
    with torch.no_grad():
        compiled(TOKENS)
        if whole:
            with pytest.raises(UnsupportedError, match=text), qkv.watch(compiled):
                compiled(TOKENS)
            with qkv.watch(compiled._orig_mod) as seen:
                compiled._orig_mod(TOKENS)
            assert list(seen.layers) == [0, 1] and not seen.unseen
        else:
            with qkv.watch(compiled) as seen:
                compiled(TOKENS)
            assert list(seen.layers) == [1]
            (reason,) = seen.unseen.values()
            assert reason.startswith("it is compiled, and compiled code cannot be seen")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Linear(2, 2), "it has no attention"),
        (gpt(), "layers.0.attention: it did not attend inside the block; layers.1.attention: it did not"),
        (nn.MultiheadAttention(4, 2), ": it did not run inside the block"),
    ],
)
def test_nothing_seen_is_an_error_with_the_reasons(model, why):
    with pytest.raises(UnsupportedError) as raised, qkv.watch(model):
        pass
    text = f"watch: the model must have attention that can be recorded; got none ({why}"
    assert str(raised.value).startswith(text)


def test_torch_says_how_it_could_be_seen():
    attention = nn.MultiheadAttention(4, 2)
    text = r"qkv\.MultiHead\.from_torch\(module\) can be seen\)$"
    with pytest.raises(UnsupportedError, match=text), qkv.watch(attention):
        attention(*[torch.zeros(3, 1, 4)] * 3)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_block_comes_through_and_the_model_is_restored(error):
    model = gpt()
    with pytest.raises(error), qkv.watch(model):
        raise error
    assert not any("attend" in vars(module) or module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    # An exception in the model itself leaves nothing behind either.
    with torch.no_grad(), qkv.watch(model) as seen:
        with pytest.raises(ArgumentError):
            model(WORDS + 100)
        model(WORDS)
        model(WORDS[:, :2])
    assert seen[1].shape == (2, 2, 2, 2)


@pytest.mark.parametrize(
    ("asked", "kind", "text"),
    [
        ({"layers": "3"}, KindError, r"^watch: layers must be numbers, such as \[0, 3\]; got '3'$"),
        ({"heads": [True]}, KindError, r"^watch: heads must be numbers, such as \[0, 3\]; got \[True\]$"),
        ({"queries": -1}, ArgumentError, r"^watch: queries must rise from 0 on, each once; got -1 \(all: None\)$"),
        ({"layers": []}, ArgumentError, r"^watch: layers must rise from 0 on, each once; got \[\] \(all: None\)$"),
        (
            {"heads": 2},
            ArgumentError,
            r"^watch: heads must lie in 0\.\.1; got 2 \(all that layers\.0\.attention has\)$",
        ),
    ],
)
@pytest.mark.unhooked
def test_numbers_that_are_none_are_refused(asked, kind, text):
    model = gpt()
    with pytest.raises(kind, match=text), qkv.watch(model, **asked):
        model(WORDS)


def test_what_was_seen_is_viewed_stack_by_stack():
    torch.manual_seed(0)
    model = qkv.Transformer(qkv.TransformerConfig(vocabulary=20, width=16, layers=2, heads=2, feed_forward=32)).eval()
    with torch.no_grad(), qkv.watch(model) as seen:
        model(pairs([1, 2, 3]), pairs([1, 2]))
    views = seen.views()
    assert [view.title for view in views] == [
        "self attention in encoder", "self attention in decoder", "cross attention in decoder",
    ]  # fmt: skip
    for view in views:
        view.check()
    assert views[2].keys == ["0", "1", "2"] and views[0].keys is None and len(views[2].weights) == 2
    close(torch.from_numpy(views[2].weights[1]), seen.cross[1].dense()[0])


def test_a_layer_that_was_not_seen():
    model = gpt()
    with (
        pytest.raises(UnsupportedError, match=r"got none \(it has none of these layers\)$"),
        qkv.watch(model, layers=[2, 3]),
    ):
        model(WORDS)
    with qkv.watch(model) as seen:
        model(WORDS)
    with pytest.raises(ArgumentError, match=r"^Seen\[…\]: layer must be one that was seen; got 2 \(the layers seen: 0"):
        seen[2]
    with pytest.raises(ArgumentError, match=r"^Seen\[…\]: name must be one that was seen; got 'x' \(the names seen: l"):
        seen["x"]


def test_what_was_seen_can_be_shown():
    model = gpt()
    with torch.no_grad(), qkv.watch(model) as seen:
        model(WORDS)
    (view,) = seen.views()
    assert list(view.tokens) == [str(row) for row in range(7)] and view.keys is None and len(view.weights) == 2
    close(torch.from_numpy(view.weights[1]), seen[1].dense()[0])
    assert "<iframe" in qkv.show(seen, widget=False)._repr_html_()
