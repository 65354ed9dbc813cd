"""The attention of a model as one offline page."""

from qkv.lens.page.build import Image, View, render_page, write_page

__all__ = ["Image", "View", "render_page", "write_page"]
