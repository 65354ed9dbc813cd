"""A training of seconds."""

TINY = ("--steps", 4, "--every", 2, "--width", 16, "--layers", 1, "--heads", 2, "--positions", 32, "--tokens", 128)
