"""Any architecture that transformers knows, from a folder: safetensors alone, and no code but transformers' own."""

import contextlib
import io
from importlib.util import find_spec
from os import PathLike
from typing import Any

from torch import nn

from qkv.errors import UnsupportedError, must
from qkv.folders import file_error, find_folder, listing, read_json

_PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth", ".h5", ".msgpack")


def architecture_of(folder: str | PathLike[str]) -> type[nn.Module]:
    """Say which class of transformers a folder's config.json names, without its weights.

    Raises: UnsupportedError if transformers is not installed or does not know the architecture; FileError for a config
    that is missing or broken.
    """
    function = "load_architecture"
    path = find_folder(folder, function) / "config.json"
    config = read_json(path, function)
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    except ModuleNotFoundError as error:
        fix = "pip install 'transformers>=5.3'"
        raise UnsupportedError(must(function, "transformers", "be installed", "no such package", fix)) from error
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        rule, fix = "be one that transformers knows", "code that comes with a model is never run"
        raise UnsupportedError(must(function, f"model_type in {path}", rule, repr(kind), fix))
    model = _class_of(config, transformers)
    if model is None:
        rule = "name a model of transformers"
        raise UnsupportedError(must(function, f"architectures in {path}", rule, repr(config.get("architectures"))))
    return model


def load_architecture(folder: str | PathLike[str]) -> nn.Module:
    """Load a model of transformers from a folder, or by its name on the Hugging Face Hub, ready for inference.

    Code that comes with a model is never run: its kind must be one that transformers itself has.

    Raises: as `architecture_of`; FileError for what is missing, broken, pickled or not as config.json says.
    """
    function = "load_architecture"
    folder = find_folder(folder, function)
    model: Any = architecture_of(folder)
    if not list(folder.glob("*.safetensors")):
        pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
        rule = "hold weights as safetensors"
        fix = "a pickle can run any code when it is read; convert it elsewhere" if pickled else ""
        raise file_error(function, folder, rule, ", ".join(pickled) or listing(folder), fix)
    try:
        # It reports to the terminal what is told here by an error.
        with contextlib.redirect_stderr(io.StringIO()):
            made, told = model.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, dtype="auto", output_loading_info=True
            )
    # What a broken file raises there is of many kinds.
    except Exception as error:
        rule = f"hold the {model.__name__} that its config.json describes"
        raise file_error(function, folder, rule, " ".join(str(error).split())[:200]) from error
    if missing := sorted(told["missing_keys"]):
        rule = "hold all tensors of its model"
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise file_error(function, folder, rule, f"missing {', '.join(missing[:5])}{more}")
    return made.eval()


def load_image_processor(folder: str | PathLike[str]) -> Any:
    """Load what turns pictures into a vision model's input: transformers' image processor, of preprocessor_config.json.

    Raises: FileError for a folder that has none, or a broken one; UnsupportedError if Pillow is not installed.
    """
    function = "load_image_processor"
    folder = find_folder(folder, function)
    path = folder / "preprocessor_config.json"
    read_json(path, function)
    if find_spec("PIL") is None:
        rule, fix = "be installed", "pip install pillow"
        raise UnsupportedError(must(function, "pillow", rule, "no such package", fix))
    from transformers import AutoImageProcessor

    try:
        # It reports to the terminal that torchvision, which only makes it faster, is not installed.
        with contextlib.redirect_stderr(io.StringIO()):
            return AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
    # What a broken file raises there is of many kinds.
    except Exception as error:
        rule = "describe an image processor of transformers"
        raise file_error(function, path, rule, " ".join(str(error).split())[:200]) from error


def _class_of(config: dict[str, Any], transformers: Any) -> Any:
    """Find the class that a config names, or that of its kind without a head."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    named = config.get("architectures") or [MODEL_MAPPING_NAMES.get(config["model_type"])]
    name = named[0] if isinstance(named, list) and named else None
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model else None
