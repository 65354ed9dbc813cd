"""A corpus small enough to check by hand."""

TEXTS = [
    "the cat playing the mouse .",
    "click the mouse",
    "",
    "The Mouse click .",
    "鼠标 click",
    "鼠 鼠标 cat",
    ". . .",
]
