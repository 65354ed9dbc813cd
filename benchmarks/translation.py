"""`python -m benchmarks.translation`: beam search against transformers' Marian with the same weights, in one run.

Post-norm, 3 + 3 layers of width 256, 4 heads, 8,000 words, 4 beams, 40 steps that nobody ends early. Before the clock
starts, both must give the same logits and find the same sentences. One thread and processor time, unless THREADS says
otherwise: then wall time.
"""

import os
import statistics

import torch
from torch import nn
from transformers import MarianConfig, MarianMTModel

from benchmarks.cases import Case, same
from benchmarks.run import measure
from qkv.models.generation import beam_search
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.text.batching import Sequences

VOCABULARY, WIDTH, HIDDEN, STEPS, BEAMS = 8000, 256, 1024, 40, 4
START, END = 7999, 0


def marian() -> MarianMTModel:
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=3, decoder_layers=3,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
        activation_function="relu", scale_embedding=True, pad_token_id=START, decoder_start_token_id=START,
        eos_token_id=END, forced_eos_token_id=None, init_std=WIDTH**-0.5,
    )  # fmt: skip
    return MarianMTModel(config).eval()


def ours_of(theirs: MarianMTModel) -> Transformer:
    """Make our model with their weights."""
    config = TransformerConfig(VOCABULARY, WIDTH, layers=3, heads=4, feed_forward=HIDDEN)
    # Theirs are sines, then cosines; ours by turns.
    table = theirs.model.encoder.embed_positions.weight.detach()
    ours = Transformer(config, positions=lambda places: table[places])
    names = {
        "self_attn": "attention", "self_attn_layer_norm": "attention_residual.norm",
        "encoder_attn": "cross", "encoder_attn_layer_norm": "cross_residual.norm",
        "q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output",
        "fc1": "feed_forward.expand", "fc2": "feed_forward.contract", "final_layer_norm": "feed_forward_residual.norm",
    }  # fmt: skip
    weights = {"embedding.weight": theirs.model.shared.weight}
    for stack in ("encoder", "decoder"):
        layers: nn.Module = getattr(theirs.model, stack).layers
        for name, tensor in layers.state_dict().items():
            weights[".".join([stack, *(names.get(part, part) for part in name.split("."))])] = tensor
    ours.load_state_dict(weights)
    return ours.eval()


@torch.no_grad()
def translation(name: str, lengths: list[int]) -> Case:
    theirs = marian()
    model = ours_of(theirs)
    sources = [torch.randint(1, START, (length,)) for length in lengths]
    packed = Sequences.of(sources)
    tokens, _ = packed.padded(START)
    padding = (tokens != START).long()
    first = torch.full((len(lengths), 1), START)

    def ours() -> torch.Tensor:
        with torch.inference_mode():
            return beam_search(model, model.start(packed), first, new=STEPS, beams=BEAMS).tokens[:, 0]

    def peer() -> torch.Tensor:
        with torch.inference_mode():
            return theirs.generate(
                tokens, attention_mask=padding, num_beams=BEAMS, do_sample=False,
                max_new_tokens=STEPS, min_new_tokens=STEPS, suppress_tokens=None,
            )[:, 1:]  # fmt: skip

    def agree() -> None:
        target = torch.randint(1, START, (len(lengths), 12))
        target[:, 0] = START
        given = {"input_ids": tokens, "attention_mask": padding, "decoder_input_ids": target}
        hidden = model(packed, Sequences.of(target.unbind()))
        logits = model.predict_tokens(hidden).view(len(lengths), 12, VOCABULARY)
        same(logits, theirs(**given).logits)
        found, wanted = ours(), peer()
        assert found.shape == wanted.shape == (len(lengths), STEPS)
        assert torch.equal(found, wanted), (found, wanted)

    return Case(name, ours, {"Marian": peer}, agree)


CASES = {
    "one sentence": [20],
    "eight sentences": [12, 15, 18, 20, 22, 25, 28, 30],
}


def main() -> None:
    torch.set_num_threads(threads := int(os.environ.get("THREADS", "1")))
    for name, lengths in CASES.items():
        torch.manual_seed(0)
        times = measure(translation(name, lengths), rounds=5)
        ratios = sorted(theirs / mine for theirs, mine in zip(times["Marian"], times["qkv"], strict=True))
        medians = {who: 1e3 * statistics.median(took) for who, took in times.items()}
        print(f"beam {BEAMS}, {STEPS} steps, {name}, threads {threads}: qkv {medians['qkv']:.0f} ms, "
              f"Marian {medians['Marian']:.0f} ms, ratio {statistics.median(ratios):.2f} "
              f"({ratios[1]:.2f}–{ratios[-2]:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
