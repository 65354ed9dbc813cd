"""The ratio to reach for each case and peer, on one thread and on two of two AVX2 cores; set before measuring."""

TARGETS: dict[str, tuple[float, float]] = {
    "window 257 of 4,096 / SDPA, mask given": (9, 7.5),
    "window 257 of 4,096 / FlexAttention, compiled": (1.8, 1.8),
    "window 257 of 4,096, training step / SDPA, mask given": (7, 6),
    "8 ragged sequences, keys hidden / SDPA, mask given": (2.2, 2.2),
    "8 ragged, keys hidden, training step / SDPA, mask given": (2.2, 2.2),
    "8 ragged, keys and queries / SDPA, mask given": (3.3, 3.3),
    "8 ragged, keys and queries, training step / SDPA, mask given": (3.3, 3.3),
    "additive, 1,024 keys / broadcast": (40, 40),
    "additive, 1,024 keys / broadcast, compiled": (12, 12),
    "additive, training step / broadcast, compiled": (8, 8),
    "decode float32 / SDPA, enable_gqa": (5, 5),
    "decode float32 / SDPA, heads folded": (1.3, 1.3),
    "decode float32 / plain read": (0.7, 0.7),
    "decode bfloat16 / SDPA, enable_gqa": (20, 20),
    "decode bfloat16 / SDPA, heads folded": (1.3, 1.3),
    "decode bfloat16 / plain read": (0.7, 0.7),
    "dropout training, 2,048 keys / SDPA with dropout": (2.5, 2.5),
    "statistics: top 8, entropy, received of 16,384 × 16,384 / SDPA output": (1 / 3.5, 1 / 3.5),
    "planning, 4,096 × 4,096 / create_block_mask": (500, 500),
}

LIMITS: dict[str, tuple[float, float]] = {
    "window 256 of 2,048 / the same of 32,768 (16 is linear)": (12.8, 19.2),
}
"""Between what the ratio must stay: 16 times the positions in 16 times the time, ± 20%."""

MICROSECONDS: dict[str, float] = {
    "call, 128 keys / SDPA": 15,
    "causal call, 128 keys / SDPA": 10,
}
"""What a call may take beyond SDPA's own."""
