"""`import qkv` is light, and every public name is what it says."""

import subprocess
import sys


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_in_nothing_heavy():
    heavy = "{'torch', 'numpy', 'typer', 'rich', 'tokenizers', 'safetensors', 'jaxtyping', 'numba'}"
    assert run(f"import sys, qkv; print({heavy} & set(sys.modules))") == "set()\n"


def test_no_module_hides_a_public_name():
    # `import qkv.attend` sets qkv.attend to the module; the public name must win all the same.
    script = """
import importlib, pkgutil, types, qkv
for module in pkgutil.walk_packages(qkv.__path__, "qkv."):
    try:
        if module.name != "qkv.__main__":
            importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert error.name == "triton", error  # which only torch's CUDA builds bring
for name in qkv.__all__:
    assert name in dir(qkv), name
    assert not isinstance(getattr(qkv, name), types.ModuleType), name
"""
    run(script)
