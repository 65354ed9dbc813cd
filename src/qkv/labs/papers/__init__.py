"""Experiments of papers' tables, on translation: the full forms of the labs of the same names."""
