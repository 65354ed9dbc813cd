"""The attention of a model as one offline page."""

from qkv.lens.page.build import render_page, write_page
from qkv.lens.page.view import Image, Projection, View

__all__ = ["Image", "Projection", "View", "render_page", "write_page"]
