"""The attention of a model as one offline page."""

from qkv.lens.page.build import View, render_page, write_page

__all__ = ["View", "render_page", "write_page"]
