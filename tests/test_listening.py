"""The path of a Unix socket (W-SOCKET)."""

import os
import socket
import subprocess
import sys

import pytest

from rkllm_twisted.listening import AddressUnusable, HeldPath, probe


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


def leave(path):
    """A socket that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)


def test_stale_socket_is_cleared_away(path):
    leave(path)
    os.symlink("1", f"{path}.lock")  # Twisted's own lock, of a process id that lives
    probe(path)
    assert os.listdir(os.path.dirname(path)) == []


def test_live_socket_of_another_program_is_not_stolen(path):
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(path)
        foreign.listen()
        with pytest.raises(AddressUnusable, match="a server is listening there already"):
            HeldPath(path)
        assert os.path.exists(path)
    assert os.listdir(os.path.dirname(path)) == ["s"]


def test_file_that_is_no_socket_is_left_alone(path):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(AddressUnusable, match="not a socket"):
        probe(path)
    assert os.path.getsize(path) == 8


@pytest.mark.parametrize("target", ["nowhere", "s"])
def test_symbolic_link_is_left_alone(path, target):
    os.symlink(target, path)
    with pytest.raises(AddressUnusable, match="not a socket"):
        probe(path)
    assert os.path.islink(path)


@pytest.mark.parametrize("length", [108, 300])
def test_path_that_is_too_long(length, tmp_path):
    with pytest.raises(AddressUnusable, match="may have 107 bytes"):
        probe(f"{tmp_path}/".ljust(length, "a"))


def test_stale_socket_that_cannot_be_removed(path, monkeypatch):
    leave(path)

    def refuse(name):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(AddressUnusable, match="Operation not permitted"):
        probe(path)
    monkeypatch.undo()


def test_directory_that_is_not_there(path):
    with pytest.raises(AddressUnusable, match="directory does not exist"):
        probe(f"{path}/below")


def test_path_is_held_by_one(path):
    held = HeldPath(path)
    with pytest.raises(AddressUnusable, match="another daemon"):
        HeldPath(path)
    held.release()
    HeldPath(path).release()
    assert os.listdir(os.path.dirname(path)) == []


def test_holder_that_was_killed_does_not_keep_the_path(path):
    script = f"import os; from rkllm_twisted.listening import HeldPath; HeldPath({path!r}); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert os.path.exists(f"{path}.flock")
    HeldPath(path).release()
