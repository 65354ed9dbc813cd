"""What `attn_implementation="qkv"` gains transformers' models beside "sdpa": masks that skip work, grouped decoding.

python -m benchmarks.huggingface

Whole models, random, on one thread and in processor time, in turns, after a check that both give the same: the median
ratio of sdpa's time to qkv's, and its quartiles.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import qkv

ROUNDS = 7
SIZES = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 2, "intermediate_size": 512}


def both(config: str, model: str, **numbers: object) -> dict[str, nn.Module]:
    """Make a model on each implementation, with the same weights."""
    import transformers

    made = {}
    for implementation in ("sdpa", "qkv"):
        torch.manual_seed(0)
        settings = getattr(transformers, config)(**{**SIZES, **numbers})
        made[implementation] = getattr(transformers, model)._from_config(settings, attn_implementation=implementation)
    return {name: each.eval() for name, each in made.items()}


def padded() -> dict[str, Callable[[], Tensor]]:
    """BERT: 8 texts that fill 37% of 1,024."""
    lengths = torch.tensor([1024, 512, 384, 300, 256, 200, 200, 155])
    kept = torch.arange(1024) < lengths[:, None]
    tokens = torch.randint(0, 1000, (8, 1024))
    models = both("BertConfig", "BertModel", num_attention_heads=4, max_position_embeddings=1024)
    return {
        name: lambda model=model: model(tokens, attention_mask=kept.long())[0][kept] for name, model in models.items()
    }


def window() -> dict[str, Callable[[], Tensor]]:
    """Mistral: a window of 256 over 4,096."""
    tokens = torch.randint(0, 1000, (1, 4096))
    models = both(
        "MistralConfig", "MistralModel", num_attention_heads=4, num_key_value_heads=4, sliding_window=256,
        max_position_embeddings=4096,
    )  # fmt: skip
    return {name: lambda model=model: model(tokens, use_cache=False)[0] for name, model in models.items()}


def decode() -> dict[str, Callable[[], Tensor]]:
    """Llama: a token after 8,192, 16 heads on 4."""
    from transformers import DynamicCache

    models = both(
        "LlamaConfig", "LlamaModel", num_attention_heads=16, num_key_value_heads=4, head_dim=64,
        max_position_embeddings=16384,
    )  # fmt: skip
    past, token = [torch.randn(2, 1, 4, 8192, 64) for _ in range(2)], torch.tensor([[5]])

    def step(model: nn.Module) -> Tensor:
        cache = DynamicCache()
        for layer, (key, value) in enumerate(past):
            cache.update(key, value, layer)
        return model(token, past_key_values=cache)[0]

    return {name: lambda model=model: step(model) for name, model in models.items()}


def main() -> None:
    """Measure each case and print its line."""
    torch.set_num_threads(1)
    qkv.register()
    with torch.no_grad():
        for case in (padded, window, decode):
            runs = case()
            torch.testing.assert_close(runs["qkv"](), runs["sdpa"](), rtol=0, atol=1e-4)
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(ROUNDS):
                for name, run in runs.items():
                    start = time.process_time()
                    run()
                    times[name].append(time.process_time() - start)
            ratios = sorted(theirs / ours for theirs, ours in zip(times["sdpa"], times["qkv"], strict=True))
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            medians = ", ".join(f"{name} {1e3 * statistics.median(took):.1f} ms" for name, took in times.items())
            print(f"{case.__doc__} {medians}: {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
