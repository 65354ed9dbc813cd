"""See the attention of a model: in the terminal, in a page, in numbers."""
