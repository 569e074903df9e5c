"""A peer is lost, at every moment of a long exchange: another's exchange goes on as if nothing had been."""

import gc
import weakref

import msgspec
import pytest
from twisted.internet.task import Clock, deferLater

from rkllm_twisted.backends.scripted import ScriptedBackend
from rkllm_twisted.testing.peers import Server
from tests.fuzz.judging import Judge

OTHER_USER = 1000
"""The lost peer's, so that its abort ends nobody else's generation (W-ABORT)."""
TICK = None
"""A second passes: a token, a model loaded."""

# Who says what and when. The lost peer loads a model of its own, has runs of every spelling waiting and running, keeps
# a history, cancels, aborts, and sends a batch and a line that is none; the other needs the model in between.
EXCHANGE = [
    ("other", {"id": "load", "method": "rkllm.init", "params": [{"model_path": "any"}]}),
    ("lost", {"id": 1, "method": "rkllm.run", "params": [{"prompt_input": "one two"}, {"keep_history": 1}]}),
    TICK,
    ("other", {"id": "a", "method": "rkllm.run", "params": [None, {"prompt_input": "red green blue"}, None, None]}),
    TICK,
    ("lost", {"id": 2, "method": "rkllm.init", "params": [None, {"model_path": "another"}, None]}),
    (
        "lost",
        {"id": 3, "method": "rkllm.run", "params": [{"prompt_input": "three"}, None, {"stream": "progress"}]},
    ),
    TICK,
    ("other", {"id": "b", "method": "rkllm.run_async", "params": [{"prompt_input": "cyan magenta"}]}),
    ("other", {"id": "c", "method": "rkllm.run", "params": [{"prompt_input": "black"}, None, {"stream": "whole"}]}),
    ("lost", {"method": "rkllm.run", "params": [{"prompt_input": "unheard"}]}),
    TICK,
    ("lost", [{"id": 4, "method": "rkllm.run", "params": [{"prompt_input": "in a batch"}]}, {"id": 5, "method": "?"}]),
    ("lost", {"id": 6, "method": "rkllm.run", "params": [{"prompt_input": "four five"}, {"keep_history": 1}]}),
    *[TICK] * 8,
    ("other", {"id": "d", "method": "rkllm.get_constants"}),
    TICK,
    ("lost", {"method": "$/cancelRequest", "params": {"id": 3}}),
    ("lost", b"this is no JSON\n"),
    *[TICK] * 6,
    ("lost", {"id": 7, "method": "rkllm.abort"}),
    ("lost", {"id": 8, "method": "rkllm.run", "params": [{"prompt_input": "six seven eight"}, None, {"deadline": 2}]}),
    TICK,
    ("other", {"id": "e", "method": "rkllm.run", "params": [{"prompt_input": "white"}]}),
    TICK,
    ("lost", {"id": 9, "method": "rkllm.run_async", "params": [{"prompt_input": "nine ten"}]}),
    *[TICK] * 10,
]
PATIENCE = 100
"""More ticks than there is anything to do in."""


class SlowBackend(ScriptedBackend):
    """Takes a second to load a model."""

    def init(self, param):
        return deferLater(self._clock, 1, lambda: None).addCallback(lambda _: super(SlowBackend, self).init(param))


def spelled(message):
    """What is sent: bytes as they are, else a line."""
    if isinstance(message, bytes):
        return message
    whole = [{"jsonrpc": "2.0", **entry} for entry in (message if isinstance(message, list) else [message])]
    return msgspec.json.encode(whole if isinstance(message, list) else whole[0]) + b"\n"


class Side:
    """One of the two peers, with all that it sent and received."""

    def __init__(self, server, uid):
        self.peer = server.connect(uid)
        self.sent = b""
        self.lines = []

    def send(self, data):
        self.sent += data
        self.peer.send(data)

    def collect(self):
        data = self.peer.transport.value()
        self.peer.transport.clear()
        assert not data or data.endswith(b"\n")
        self.lines += data.splitlines()

    def judge(self, isComplete):
        """W-LAST and what else the fuzzer's judge looks at."""
        Judge(self.sent, b"".join(line + b"\n" for line in self.lines)).judge(isComplete, 0)


class Scene:
    """The exchange, up to a moment and then without the lost peer.

    Args:
        moment: How many steps are taken before the loss; None leaves the lost peer out from the beginning.
    """

    def __init__(self, moment):
        self.clock = Clock()
        self.server = Server(SlowBackend(self.clock, interval=1), self.clock)
        self.other = Side(self.server, 0)
        self.lost = Side(self.server, OTHER_USER) if moment is not None else None
        self.steps = EXCHANGE[:moment] if moment is not None else []
        self.rest = EXCHANGE[len(self.steps) :]

    def begin(self):
        """All that comes before the moment."""
        for step in self.steps:
            self._take(step, {"other": self.other, "lost": self.lost})

    def goOn(self, until=None):
        """What the other does after it, up to a step of the exchange or to the end of everything."""
        count = len(self.rest) if until is None else until - len(EXCHANGE) + len(self.rest)
        for step in self.rest[:count]:
            self._take(step, {"other": self.other})
        self.rest = self.rest[count:]
        for _ in range(PATIENCE if until is None else 0):
            self._take(TICK, {})

    def _take(self, step, sides):
        self._closeClosed()
        if step is TICK:
            self.clock.advance(1)
        elif step[0] in sides:
            sides[step[0]].send(spelled(step[1]))
        self._closeClosed()

    def _closeClosed(self):
        if self.lost is not None and self.lost.peer.transport.disconnecting:
            self.lose()

    def lose(self):
        """The lost peer is gone for good; nothing of it is kept here."""
        self.lost.collect()
        self.lost.peer.disconnect()
        assert self.lost.peer.transport.value() == b"", "written to after it was lost"
        self.gone = weakref.ref(self.lost.peer.protocol)
        self.wasLost, self.lost = self.lost, None
        self.wasLost.peer = None

    def nextOfTheLost(self):
        """What the lost peer would have sent next."""
        return next(
            (spelled(step[1]) for step in self.rest if step is not TICK and step[0] == "lost"), spelled(EXCHANGE[1][1])
        )

    def ask(self, method):
        """What the other is told at once, aside from its exchange."""
        self.other.collect()
        self.other.peer.send(spelled({"id": 0, "method": method}))
        answer = msgspec.json.decode(self.other.peer.transport.value())
        self.other.peer.transport.clear()
        return answer["result"]

    def transcript(self):
        """The lines of each request of the other, byte for byte. How they interleave may differ (W-ORDER)."""
        self.other.collect()
        lines = {}
        for line in self.other.lines:
            lines.setdefault(msgspec.json.decode(line)["id"], []).append(line)
        return lines


def transcriptAlone():
    scene = Scene(None)
    scene.goOn()
    return scene.transcript()


ALONE = transcriptAlone()
MOMENTS = range(len(EXCHANGE) + 1)


def checkAfterwards(scene, moment):
    """The other has had what it has alone, and the server has forgotten the lost one."""
    where = f"lost after {moment} steps"
    assert scene.transcript() == ALONE, where
    assert scene.clock.getDelayedCalls() == [], where
    assert scene.ask("server.status")["queue"]["length"] == 0, where
    assert scene.ask("rkllm.is_running")["is_running"] is False, where
    # What ran last may still be named as that; the other runs once more, and then nothing knows of the lost one.
    scene.other.send(spelled({"id": "z", "method": "rkllm.run", "params": [{"prompt_input": "grey"}]}))
    scene.clock.pump([1, 1])
    scene.other.collect()
    assert msgspec.json.decode(scene.other.lines[-1])["result"]["finish_reason"] == "stop", where
    if scene.gone() is not None:
        gc.collect()
    assert scene.gone() is None, where


def test_exchange_alone_is_what_it_should_be():
    """W-STREAM, W-LAST: the measure of all that follows."""
    texts = {}
    for id, lines in ALONE.items():
        results = [msgspec.json.decode(line)["result"] for line in lines]
        texts[id] = [result.get("text", result.get("success")) for result in results]
    assert texts.pop("d") == [None]
    assert texts == {
        "load": [True],
        "a": ["red", " green", " blue", None],
        "b": [True, "cyan", " magenta", None],
        "c": ["black"],
        "e": ["white", None],
    }


@pytest.mark.parametrize("half", [b"", b"half a line"], ids=["between-lines", "inside-a-line"])
def test_lost_peer_is_not_missed(half):
    """W-GONE, W-TURNS, W-HISTORY, W-MODEL: closed after each line and each second, also in the middle of a line."""
    for moment in MOMENTS:
        scene = Scene(moment)
        scene.begin()
        if half:
            scene.lost.peer.send(scene.nextOfTheLost()[:-10])
        scene.lose()
        queue = scene.ask("server.status")["queue"]
        assert queue["length"] == len(queue["waiting"]), f"lost after {moment} steps: a turn of its own still waits"
        scene.goOn()
        scene.wasLost.judge(isComplete=False)
        checkAfterwards(scene, moment)


@pytest.mark.parametrize("half", [b"", b"half a line"], ids=["between-lines", "inside-a-line"])
def test_peer_that_ends_its_writing_gets_all_it_asked_for(half):
    """W-HALFCLOSE, W-LAST, W-TURNS: and the other does not notice."""
    for moment in MOMENTS:
        scene = Scene(moment)
        scene.begin()
        if half:
            scene.lost.send(scene.nextOfTheLost()[:-10])
        scene.lost.sent += b"\n"
        lost = scene.lost
        lost.peer.finishWriting()
        scene.goOn()
        assert scene.lost is None, f"after {moment} steps: not closed upon"
        lost.judge(isComplete=True)
        checkAfterwards(scene, moment)


def test_peer_that_ends_its_writing_and_is_lost_later_is_not_missed():
    """W-HALFCLOSE, W-GONE: the half-closed connection closes at a moment that follows."""
    for moment in MOMENTS:
        for later in range(moment + 1, len(EXCHANGE), 5):
            scene = Scene(moment)
            scene.begin()
            scene.lost.peer.finishWriting()
            scene.goOn(later)
            if scene.lost is not None:
                scene.lose()
            scene.goOn()
            checkAfterwards(scene, f"{moment}, and for good after {later}")
