"""What the commands do, a file each; `cli.py` says how they are called."""
