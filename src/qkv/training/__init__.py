"""Training: the loop, its schedules, checkpoints and metrics, and the tasks that it trains."""
