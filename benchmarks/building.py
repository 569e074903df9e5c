"""What is in C, compiled once in a run: the load generator, the echo, and the library that says tokens."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.native.build import buildStandin, compileTo

NATIVE = Path(__file__).parent / "native"
FAMILY = "1.3.1"
VOCABULARY = 151936
"""The tokens that Qwen's models know: 152 k logits for a token."""
CONTEXT = 2**20
"""So that a stream of many tokens fits."""
MODEL = f"RKLLM-STANDIN context={CONTEXT};vocab={VOCABULARY}\n"
TOKENS = "tokens= a| b| c| d;endless=1;stamps=1"
"""Tokens without end, whose texts are the times at which the library hands them over."""


class Built(NamedTuple):
    """What was compiled, and what goes with it.

    Attributes:
        load: The load generator.
        echo: The C echo.
        library: The stand-in of the vendor's library.
        model: A model file for it.
        script: What the library reads its script from at the beginning of each run.
    """

    load: Path
    echo: Path
    library: Path
    model: Path
    script: Path

    def pause(self, microseconds: int) -> None:
        """Let the library wait so long before each token from the next run on."""
        self.script.write_text(f"{TOKENS};token_us={microseconds}")

    @property
    def environment(self) -> dict[str, str]:
        """What a process that loads the library has in its environment."""
        return {"RKLLM_STANDIN_CONTROL": str(self.script)}


def build(directory: Path) -> Built:
    """Compile everything.

    Args:
        directory: Where to.

    Raises:
        RuntimeError: The compiler failed; with what it said.
    """
    load, echo = directory / "load", directory / "echo"
    compileTo(load, [NATIVE / f"{name}.c" for name in ("load", "common", "calls", "streams")], "-O2")
    compileTo(echo, [NATIVE / f"{name}.c" for name in ("echo", "common")], "-O2")
    library = buildStandin(FAMILY, directory, "-O2")
    model, script = directory / "model.rkllm", directory / "script"
    model.write_text(MODEL)
    built = Built(load, echo, library, model, script)
    built.pause(0)
    return built
