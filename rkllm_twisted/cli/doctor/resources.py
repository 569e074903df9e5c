"""Checks of memory, model file, socket and file descriptors."""

from __future__ import annotations

import os
import stat

from rkllm_twisted.backends import splitDescription
from rkllm_twisted.backends.llamacpp.models import PACKAGED, findModel
from rkllm_twisted.cli.doctor.findings import Finding, State
from rkllm_twisted.cli.doctor.machine import CHIPS, Machine
from rkllm_twisted.client.addresses import isEndpointString
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.listening import AddressUnusable, InUse, isStale
from rkllm_twisted.server import MAX_CLIENTS

OTHER_FILES = 64
"""A guess, on the high side, at what a daemon has open beside its connections."""


def backendOf(model: str) -> str:
    """The name of the backend that a model is for. By the file's name: how a .rkllm file begins is not known."""
    return "rkllm" if model.lower().endswith(".rkllm") else "llamacpp"


def model(machine: Machine, name: str) -> Finding:
    """Whether a model can be read, and what it is for.

    Args:
        machine: Whose chip the model should be for.
        name: A path, or a short name.
    """
    if backendOf(name) == "rkllm":
        return _forTheNPU(machine, name)
    try:
        file = findModel(name)
    except ModelLoadFailed as reason:
        return _unreadable(str(reason.data.get("reason", reason)))
    return Finding("model", State.OK, f"{name}: a GGUF file of {_size(file.path)}, for the CPU backend llamacpp")


def _unreadable(reason: str) -> Finding:
    names = ", ".join(PACKAGED)
    return Finding(
        "model", State.PROBLEM, reason, f"name a .rkllm file for the NPU, or for the CPU a GGUF file or {names}"
    )


def _forTheNPU(machine: Machine, path: str) -> Finding:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return _unreadable(f"{path}: it is not a file")
        with open(path, "rb") as file:
            isEmpty = not file.read(1)
    except OSError as error:
        return _unreadable(f"{path}: {error.strerror}")
    if isEmpty:
        return _unreadable(f"{path}: the file is empty")
    found = f"{path}: a file of {_size(path)}, for the NPU backend rkllm"
    here, other = machine.chip(), _chipNamed(path)
    if here and other not in (None, here):
        return Finding(
            "model",
            State.WARNING,
            f"{found}; by its name it was converted for {other}, and this is {here}",
            f"take a file that was converted for {here}: one for another chip does not load",
        )
    return Finding("model", State.OK, found)


def _chipNamed(path: str) -> str | None:
    """The chip in the name of a model file, where people write it."""
    name = os.path.basename(path).upper()
    return next((chip for chip in CHIPS if chip in name), None)


def _size(path: str) -> str:
    return gigabytes(os.path.getsize(path))


def gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def memory(machine: Machine, name: str | None) -> Finding:
    """Whether there is room for a model: at least for its file, its cache comes on top."""
    free, size = machine.freeMemory(), _modelSize(name)
    if free is None:
        return Finding("memory", State.WARNING, "cannot tell how much is free")
    if size is None:
        return Finding("memory", State.OK, f"{gigabytes(free)} free")
    said = f"{gigabytes(free)} free, {gigabytes(size)} for the model's file alone"
    if size <= free:
        return Finding("memory", State.OK, said)
    # Too little at init: -1, a NULL handle with success (1.2.3) or a crash (1.3.0, airockchip/rknn-llm issue 522).
    return Finding("memory", State.PROBLEM, said, "take a smaller model, or end what else takes memory")


def _modelSize(name: str | None) -> int | None:
    try:
        if name is None:
            return None
        return os.path.getsize(name if backendOf(name) == "rkllm" else findModel(name).path)
    except (OSError, ModelLoadFailed):
        return None


def socket(address: str) -> Finding:
    """Whether the daemon could listen where the command looks for it, or does so already. Changes nothing there."""
    try:
        path = _path(address)
        if path is None:
            return Finding("socket", State.OK, f"{address} is no Unix socket, nothing to look at")
        stale = isStale(path)
    except InUse:
        return Finding("socket", State.OK, f"a server is listening at {address}")
    except (AddressUnusable, ValueError) as error:
        return Finding(
            "socket", State.PROBLEM, str(error), "put that right, or name another path: RKLLM_UDS_PATH, or --listen"
        )
    left = "; the socket that was left there will be replaced" if stale else ""
    return Finding("socket", State.OK, f"{path} can be listened on{left}")


def _path(address: str) -> str | None:
    """The path that a client's address names, as `client.endpointOf` reads it."""
    if not isEndpointString(address):
        return address
    return splitDescription(address, unnamed="path")[1].get("path") if address.startswith("unix:") else None


def files(machine: Machine) -> Finding:
    """Whether the daemon may have its connections open all at once."""
    most = machine.mostFiles()
    if most is None:
        return Finding("open files", State.OK, "not limited")
    clients = _clients(machine.environ.get("RKLLM_MAX_CLIENTS", ""))
    if most >= clients + OTHER_FILES:
        return Finding("open files", State.OK, f"{most} allowed, enough for {clients} clients")
    # The vendor's demos raise it to 102400; its spokesman: not needed since about 1.1 (airockchip/rknn-llm issue 139).
    return Finding(
        "open files",
        State.WARNING,
        f"{most} allowed, too few for {clients} clients",
        f"ulimit -n {clients + OTHER_FILES}, or LimitNOFILE= in a systemd unit",
    )


def _clients(said: str) -> int:
    return int(said) if said.isascii() and said.isdecimal() else MAX_CLIENTS
