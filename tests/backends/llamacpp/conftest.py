"""What the tests of this backend share: tiny models, a runtime, and short ways to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rkllm_twisted.backends.llamacpp import makeBackend
from rkllm_twisted.interfaces import IRuntime, IRuntimeModel
from rkllm_twisted.values import (
    CallState,
    InputType,
    RKLLMInferParam,
    RKLLMInput,
    RKLLMPerfStat,
    RKLLMResult,
    RKLLMSamplingParam,
)
from tests.tiny_model import writeModel


class Run:
    """A run and what came of it."""

    def __init__(
        self,
        model: IRuntimeModel,
        prompt: str | RKLLMInput,
        inferParam: RKLLMInferParam | None = None,
        onResult: Callable[[RKLLMResult, CallState], None] = lambda result, state: None,
        prepare: bool = True,
    ) -> None:
        self.events: list[tuple[RKLLMResult, CallState]] = []

        def received(result: RKLLMResult, state: CallState) -> None:
            self.events.append((result, state))
            onResult(result, state)

        if isinstance(prompt, str):
            prompt = RKLLMInput(input_type=InputType.RKLLM_INPUT_PROMPT, prompt_input=prompt)
        if prepare:
            model.prepare()
        self.reason = model.run(prompt, inferParam or RKLLMInferParam(), received)

    @property
    def results(self) -> list[RKLLMResult]:
        """All but the FINISH, which must be the last."""
        states = [state for _, state in self.events]
        assert states.index(CallState.RKLLM_RUN_FINISH) == len(states) - 1
        return [result for result, _ in self.events[:-1]]

    @property
    def text(self) -> str:
        return "".join(result.text or "" for result in self.results)

    @property
    def tokens(self) -> list[int]:
        return [result.token_id for result in self.results]

    @property
    def perf(self) -> RKLLMPerfStat:
        return self.events[-1][0].perf


GREEDY = RKLLMSamplingParam(top_k=1, repeat_penalty=1.0)


def greedy(**fields: Any) -> RKLLMInferParam:
    """Inference parameters of a greedy run without penalties."""
    return RKLLMInferParam(sampling_params=GREEDY, **fields)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that writes a tiny model, or gives the one that it has written of the same arguments."""
    directory = tmp_path_factory.mktemp("models")
    written: dict[str, Path] = {}

    def model(**arguments: Any) -> Path:
        key = repr(sorted(arguments.items()))
        if key not in written:
            written[key] = writeModel(directory / f"{len(written)}.gguf", **arguments)
        return written[key]

    return model


@pytest.fixture(scope="session")
def runtime() -> IRuntime:
    return makeBackend({"threads": "1"})


@pytest.fixture
def load(runtime: IRuntime, models: Callable[..., Path]) -> Iterator[Callable[..., IRuntimeModel]]:
    """A function that loads a tiny model: ``load(path or the arguments of writeModel, **fields of RKLLMParam)``."""
    loaded: list[IRuntimeModel] = []

    def load(path: Path | dict[str, Any], runtime: IRuntime = runtime, **fields: Any) -> IRuntimeModel:
        path = models(**path) if isinstance(path, dict) else path
        model = runtime.init(structs.replace(runtime.createDefaultParam(), model_path=str(path), **fields))
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        model.destroy()
