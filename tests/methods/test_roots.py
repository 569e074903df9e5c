"""Which files a client may name."""

import os
import threading
from pathlib import Path

import pytest
from twisted.python.failure import Failure

from rkllm_twisted.errors import ModelLoadFailed, NotPermitted, RuntimeCallFailed
from rkllm_twisted.methods.roots import OpenedFile, Roots

pytestmark = pytest.mark.usefixtures("flat")

WHERE = "$.param.model_path"


def read(file):
    """What a runtime would read, by the name that it is given."""
    with open(file.path) as opened:
        text = opened.read()
    file.close()
    return text


def refused(roots, path, order="file"):
    with pytest.raises(NotPermitted) as raised:
        getattr(roots, order)(str(path), WHERE)
    assert raised.value.detail.startswith(WHERE)
    assert "/proc" not in raised.value.detail
    return raised.value.detail


# Names


def test_file_below(place):
    roots = Roots([str(place / "allowed")])
    for path in ("allowed/model", "allowed//./model", "./allowed/model"):
        assert read(roots.file(f"{place}/{path}", WHERE)) == "good"
    assert read(roots.file(f"{place}/allowed/below/model", WHERE)) == "also good"


def test_what_the_runtime_gets_is_the_open_file(place):
    file = Roots([str(place / "allowed")]).file(str(place / "allowed/model"), WHERE)
    assert os.path.samefile(file.path, place / "allowed/model")
    assert file.path.startswith(f"/proc/{os.getpid()}/fd/")  # of this process: a child opens it too
    file.close()
    file.close()
    assert not os.path.exists(file.path)


@pytest.mark.parametrize(
    "path",
    [
        "{}/secret/model",
        "{}/allowed/../secret/model",
        "{}/allowed/below/../../secret/model",
        "{}/allowed/below/../model",
        "{}/allowed/..",
        "{}/allowed",
        "{}/allowed/",
        "{}/allowedmodel",
        "{}/allowed\0/model",
        "..",
        "../secret/model",
        "below/../../secret/model",
        "/",
        "",
        ".",
        "/etc/passwd",
        "/proc/self/root{}/secret/model",
        "//{}/secret/model",
    ],
)
def test_names_that_lead_elsewhere(place, path):
    roots = Roots([str(place / "allowed")])
    refused(roots, path.format(place))
    refused(roots, path.format(place), "place")


def test_file_that_is_not_there_is_no_other_error_than_for_one_that_may_not_be_seen(place):
    """Outside nothing is looked at, so nobody learns what is there."""
    roots = Roots([str(place / "allowed")])
    assert refused(roots, place / "secret/model") == refused(roots, place / "secret/nothing")
    with pytest.raises(FileNotFoundError):
        roots.file(str(place / "allowed/nothing"), WHERE)


def test_relative_names_are_below_any_directory(place):
    (place / "secret/other").write_text("from the second")
    roots = Roots([str(place / "allowed"), str(place / "secret")])
    assert read(roots.file("model", WHERE)) == "good"
    assert read(roots.file("./below/model", WHERE)) == "also good"
    assert read(roots.file("other", WHERE)) == "from the second"
    with pytest.raises(FileNotFoundError):
        roots.file("below/nothing", WHERE)


def test_several_directories(place):
    roots = Roots([str(place / "allowed/below"), str(place / "secret")])
    assert read(roots.file(str(place / "secret/model"), WHERE)) == "secret"
    assert read(roots.file(str(place / "allowed/below/model"), WHERE)) == "also good"
    refused(roots, place / "allowed/model")


def test_directory_within_another(place):
    roots = Roots([str(place), str(place / "allowed")])
    assert read(roots.file(str(place / "secret/model"), WHERE)) == "secret"


def test_short_names(place):
    """One without a slash may be the backend's own; but not where it would be a file in the working directory."""
    roots = Roots([str(place / "allowed")])
    assert roots.file("qwen", WHERE).path == "qwen"
    with pytest.raises(FileNotFoundError):
        roots.file("smollm2", WHERE)
    os.symlink("nowhere", "dangling")
    with pytest.raises(FileNotFoundError):
        roots.file("dangling", WHERE)


def test_without_directories_all_is_handed_on():
    assert Roots().file("../x", WHERE).path == "../x"
    assert Roots().place("/anywhere/x", WHERE).path == "/anywhere/x"


def test_directory_that_is_none(place):
    for path in (place / "nothing", place / "allowed/model"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            Roots([str(path)])


def test_directory_under_its_own_name_and_the_operators(place):
    (place / "link").symlink_to("allowed")
    roots = Roots([str(place / "link")])
    for name in ("link", "allowed"):
        assert read(roots.file(str(place / name / "model"), WHERE)) == "good"


# Symbolic links


@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("allowed/out", "../secret/model", "allowed/out"),
        ("allowed/out", "../secret", "allowed/out/model"),
        ("allowed/below/out", "/etc", "allowed/below/out/passwd"),
        ("allowed/inside", "model", "allowed/inside"),  # also where it leads nowhere bad: it may be changed
        ("allowed/inside", "below", "allowed/inside/model"),
        ("allowed/proc", "/proc/self/fd", "allowed/proc/0"),
    ],
)
def test_symbolic_links(place, link, target, path):
    (place / link).symlink_to(target)
    roots = Roots([str(place / "allowed")])
    assert "symbolic link" in refused(roots, place / path)
    assert "symbolic link" in refused(roots, place / path, "place")


def test_file_on_the_way(place):
    with pytest.raises(NotADirectoryError):
        Roots([str(place / "allowed")]).file(str(place / "allowed/model/x"), WHERE)


# Races


def test_file_that_is_exchanged_after_the_check(place):
    """The runtime opens what was checked, whatever the name leads to by then."""
    file = Roots([str(place / "allowed")]).file(str(place / "allowed/model"), WHERE)
    (place / "allowed/model").unlink()
    (place / "allowed/model").symlink_to("../secret/model")
    assert read(file) == "good"


def test_directory_that_is_exchanged_after_the_check(place):
    roots = Roots([str(place / "allowed")])
    file, target = roots.file("below/model", WHERE), roots.place("below/new", WHERE)
    (place / "allowed/below").rename(place / "allowed/was")
    (place / "allowed/below").symlink_to("../secret")
    assert read(file) == "also good"
    Path(target.path).write_text("cache")
    target.close()
    assert (place / "allowed/was/new").read_text() == "cache"
    assert not (place / "secret/new").exists()


def test_directory_that_is_moved_out_while_it_is_walked(place, monkeypatch):
    """An attacker acts between any two steps."""
    original = os.open
    steps = []

    def step(path, flags, *arguments, **more):
        steps.append(path)
        if path == "model":
            (place / "allowed/below").rename(place / "gone")
            (place / "allowed/below").symlink_to("../secret")
        return original(path, flags, *arguments, **more)

    roots = Roots([str(place / "allowed")])
    monkeypatch.setattr(os, "open", step)
    file = roots.file("below/model", WHERE)
    monkeypatch.undo()
    assert steps == [".", "below", "model"]
    assert read(file) == "also good"


def test_attacker_who_swaps_all_the_time(place):
    """A thread exchanges a directory for a link and back as fast as it can: the secret is never read."""
    roots = Roots([str(place / "allowed")])
    (place / "allowed/link").symlink_to("../secret")
    isOver = threading.Event()

    def attack():
        below, link, spare = (place / "allowed" / name for name in ("below", "link", "spare"))
        while not isOver.is_set():
            for names in ((below, spare), (link, below), (below, link), (spare, below)):
                names[0].rename(names[1])

    attacker = threading.Thread(target=attack)
    attacker.start()
    outcomes = set()
    try:
        for _ in range(200_000):
            try:
                outcomes.add(read(roots.file("below/model", WHERE)))
            except (NotPermitted, FileNotFoundError) as error:
                outcomes.add(type(error))
            except NotADirectoryError:
                pass  # a link when it was opened, a directory again when it was looked at
            if len(outcomes) == 3:
                break
    finally:
        isOver.set()
        attacker.join()
    assert outcomes == {"also good", NotPermitted, FileNotFoundError}


# What fails


def test_errors_have_the_name_that_the_client_gave(place):
    file = Roots([str(place / "allowed")]).file("model", WHERE)
    inside = file.path
    failure = file.failed(Failure(ModelLoadFailed(f"{inside}: not a model")))
    assert failure.value.detail == failure.value.data["reason"] == "model: not a model"
    assert not os.path.exists(inside)
    place_ = Roots([str(place / "allowed")]).place("new", WHERE)
    error = place_.named(RuntimeCallFailed(f"{place_.path} cannot be written", function="f", status=-1))
    assert error.detail == "new cannot be written"
    place_.close()
    assert OpenedFile("x").failed(Failure(KeyError("x"))).check(KeyError)
