"""`qkv see --serve`: type, and watch attention change. Needs `pip install 'qkv[serve]'`."""

from qkv.lens.serve.run import serve

__all__ = ["serve"]
