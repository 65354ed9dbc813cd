"""Which pairs may meet: one file for each kind of mask, and `algebra.py` for how they combine."""
