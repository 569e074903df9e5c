"""The one model that is loaded, and turns with it (W-MODEL, W-STATE)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from msgspec import structs
from twisted.internet.defer import Deferred, succeed

from rkllm_twisted.errors import ModelNotInitialized, ShuttingDown
from rkllm_twisted.interfaces import IModel, IModelBackend
from rkllm_twisted.methods.errands import Errand
from rkllm_twisted.methods.history import History
from rkllm_twisted.methods.roots import OpenedFile, Roots
from rkllm_twisted.methods.table import Answer
from rkllm_twisted.scheduling.scheduler import Scheduler
from rkllm_twisted.values import RKLLMParam
from rkllm_twisted.wire.connection import Call, Connection


class HeldModel:
    """Holds the model from its init to its destroy.

    Args:
        backend: Loads it.
        scheduler: Gives turns with it.
        roots: The directories below which its files may be.

    Attributes:
        param: What the model was loaded with.
        history: Whose turns are in its KV cache.
        chosen: What has been set in the place of its own prompting: a chat template, function tools.
        count: How many have been loaded.
    """

    def __init__(self, backend: IModelBackend, scheduler: Scheduler, roots: Roots) -> None:
        self.roots = roots
        self.param = RKLLMParam()
        self.history = History()
        self.chosen: set[str] = set()
        self.count = 0
        self._backend = backend
        self._scheduler = scheduler
        self._model: IModel | None = None
        self._isClosed = False
        self._files: dict[object, OpenedFile] = {}
        """What is open for the model, by its role; of what there may be many of, such as adapters, by itself."""

    @property
    def isLoaded(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    @property
    def isRunning(self) -> bool:
        """Whether a generation runs on it."""
        return self._model is not None and self._model.isRunning()

    @property
    def name(self) -> str | None:
        """The last part of the path that it was loaded from; None without a model."""
        return None if self._model is None else os.path.basename(self.param.model_path)

    def model(self) -> IModel:
        """The model, for whoever has the turn.

        Raises:
            ModelNotInitialized: There is none.
        """
        if self._model is None:
            raise ModelNotInitialized("load a model with rkllm.init first")
        return self._model

    def load(self, param: RKLLMParam, file: OpenedFile, by: Connection | None = None) -> Deferred[Answer]:
        """Load a model in the place of the one there is. For whoever has the turn.

        Args:
            param: What to load it with.
            file: Its file.
            by: Who asked for it.
        """
        inside = structs.replace(param, model_path=file.path)
        loading = self.unload(by).addCallback(lambda _: self._backend.init(inside))
        loaded: Deferred[Any] = loading.addCallback(self._loaded, param, file)
        return loaded.addErrback(file.failed)

    def _loaded(self, model: IModel, param: RKLLMParam, file: OpenedFile) -> Answer | Deferred[Answer]:
        if self._isClosed:
            return model.destroy().addCallback(_raiseShuttingDown)
        self._model, self.param = model, param
        self._files["model"] = file
        self.count += 1
        return success(f"model loaded by the {self._backend.name} backend")

    def unload(self, by: Connection | None = None) -> Deferred[None]:
        """Free the model, if there is one. For whoever has the turn."""
        model, self._model = self._model, None
        files, self._files = list(self._files.values()), {}
        self.history.forget(by)
        self.chosen.clear()
        freed = succeed(None) if model is None else model.destroy()
        return freed.addBoth(self._closed, files)

    def _closed(self, outcome: None, files: list[OpenedFile]) -> None:
        for file in files:
            file.close()
        return outcome

    def close(self) -> Deferred[None]:
        """Free the model, which ends its generation; one that is being loaded is freed when it has been."""
        self._isClosed = True
        return self.unload()

    def inTurn(self, call: Call, work: Callable[[], Deferred[Answer]]) -> Deferred[Answer]:
        """Do something in a turn of its own."""
        return self.errand(call, work).done

    def errand(self, call: Call, work: Callable[[], Deferred[Answer]]) -> Errand:
        """A turn of its own for a call, which may be cancelled out of it while it waits."""
        errand = Errand(self._scheduler, call.connection, call, work)
        call.cancelled = errand.withdraw
        return errand

    def withFile(
        self, call: Call, file: OpenedFile, work: Callable[[IModel, str], Deferred[Any]], role: str | None = None
    ) -> Deferred[Any]:
        """Do something with the model and a file in a turn of its own.

        Args:
            call: What asks for it.
            file: The file. It stays open as long as the model is there: it may have to be done again.
            work: What to do.
            role: What the file is to the model, if there is one such only: the one before it is closed then.
        """

        def kept(answer: Any) -> Any:
            self.letGo(role)
            self._files[role or file] = file
            return answer

        done = self.withModel(call, lambda model: work(model, file.path))
        return done.addCallback(kept).addErrback(file.failed)

    def letGo(self, role: str | None) -> None:
        """Close the file of a role: the model does not need it any more."""
        if role in self._files:
            self._files.pop(role).close()

    def withModel(self, call: Call, work: Callable[[IModel], Deferred[Any]]) -> Deferred[Any]:
        """Do something with the model in a turn of its own."""
        return self.inTurn(call, lambda: work(self.model()))


def success(message: str, **more: object) -> dict[str, object]:
    """A reply in the manner of the C server."""
    return {"success": True, "message": message, **more}


def _raiseShuttingDown(_: None) -> Answer:
    raise ShuttingDown
