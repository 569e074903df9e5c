"""The server under the fuzzer, and the fuzzer under defects that it must find."""

import re
from itertools import count

import msgspec
import pytest

import rkllm_twisted.wire.connection as wire
from rkllm_twisted.methods.runtime import RuntimeMethods
from rkllm_twisted.wire.messages import resultLine
from tests.fuzz import program, reading
from tests.fuzz.episodes import makeEpisode
from tests.fuzz.judging import Found, Judge
from tests.fuzz.player import problemOf

SEED = 1
LINES = 100_000


def test_server_stands_it():
    """W-LINE, W-BARE, W-SPLIT, W-REQUEST, W-ID, W-NOTIFY, W-BATCH, W-ERRORS, W-LAST, W-HALFCLOSE, W-GONE."""
    found = program.fuzz(SEED, LINES)
    assert found is None, str(found)


def raiseInMethod(patch):
    patch.setattr(RuntimeMethods, "isRunning", lambda self, call, params: 1 / 0)


def raiseInProtocol(patch):
    receive = wire.Connection.receive

    def receiveOrRaise(self, line):
        return receive(self, line) if b"\0" not in line else 1 / 0

    patch.setattr(wire.Connection, "receive", receiveOrRaise)


def endTwice(patch):
    finish = wire.Call.finish

    def finishTwice(self, result):
        if self.id is not None:
            self.write(resultLine(self.id, result))
        finish(self, result)

    patch.setattr(wire.Call, "finish", finishTwice)


def forgetAnAnswer(patch):
    fail = wire.Call.fail
    patch.setattr(wire.Call, "fail", lambda self, error: None if error.code == -32601 else fail(self, error))


def answerNotifications(patch):
    finish = wire.Call.finish

    def finishAlways(self, result):
        if self.id is None:
            self.connection.write(b'{"jsonrpc":"2.0","id":null,"result":%b}\n' % result)
        finish(self, result)

    patch.setattr(wire.Call, "finish", finishAlways)


def writeToTheLost(patch):
    patch.setattr(wire.Connection, "lost", lambda self: None)


def answerBatchesInPieces(patch):
    patch.setattr(wire.Batch, "write", lambda self, line: self._connection.write(line))


def spellIdsAnew(patch):
    resultLine = wire.resultLine
    patch.setattr(wire, "resultLine", lambda id, body: resultLine(msgspec.json.encode(msgspec.json.decode(id)), body))


def neverClose(patch):
    patch.setattr(wire.Connection, "finishReading", lambda self: None)


def sayNaN(patch):
    resultLine = wire.resultLine
    patch.setattr(wire, "resultLine", lambda id, body: resultLine(id, body.replace(b"0.0", b"NaN")))


DEFECTS = {
    raiseInMethod: "logged as an error.*ZeroDivisionError",
    raiseInProtocol: "raised out of the protocol.*ZeroDivisionError",
    endTwice: "W-LAST",
    forgetAnAnswer: "W-LAST|W-HALFCLOSE",
    answerNotifications: "W-LAST",
    writeToTheLost: "W-GONE",
    answerBatchesInPieces: "W-BATCH",
    spellIdsAnew: "W-LAST",
    neverClose: "W-HALFCLOSE",
    sayNaN: "W-LINE: NaN",
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_planted_defect_is_found(defect, monkeypatch, flushErrors):
    """And comes with the few steps that show it, and the command that plays the episode again."""
    defect(monkeypatch)
    found = program.fuzz(SEED, 20_000)
    assert found is not None
    assert re.search(DEFECTS[defect], found.problem, re.DOTALL)
    assert len(found.episode.steps) <= 4
    assert problemOf(found.episode) is not None
    assert problemOf(makeEpisode(SEED, found.number)) is not None
    assert f"--seed {SEED} --episode {found.number}" in str(found)
    monkeypatch.undo()
    assert problemOf(found.episode) is None
    flushErrors(ZeroDivisionError)


def test_seed_decides_everything():
    assert makeEpisode(7, 3) == makeEpisode(7, 3)
    assert makeEpisode(7, 3) != makeEpisode(8, 3)


def test_command(capsys, monkeypatch):
    program.main(["--seed", "5", "--lines", "400"])
    assert re.match(r"seed 5\n400 lines, nothing found, \d", capsys.readouterr().out)
    program.main(["--seed", "5", "--episode", "1"])
    endTwice(monkeypatch)
    with pytest.raises(SystemExit, match="--seed 5 --episode 0"):
        program.main(["--seed", "5", "--lines", "400"])


ASK = b'{"jsonrpc":"2.0","id":%b,"method":"m"}'
TELL = b'{"jsonrpc":"2.0","method":"m"}'


@pytest.mark.parametrize(
    ("line", "due", "least", "most", "batches"),
    [
        (ASK % b"1", {b"1": 1}, 1, 1, [0, 0]),
        (ASK % b"1.50" + ASK % b'"a"', {b"1.50": 1, b'"a"': 1}, 2, 2, [0, 0]),
        (ASK % b"null", {b"null": 1}, 1, 1, [0, 0]),
        (ASK % b"true", {b"null": 1}, 1, 1, [0, 0]),
        (TELL, {}, 0, 0, [0, 0]),
        (b"[%b,%b]" % (ASK % b"1", TELL), {b"1": 1}, 1, 1, [1, 1]),
        (b"[%b]" % TELL, {}, 0, 0, [0, 0]),
        (b"[]", {b"null": 1}, 1, 1, [0, 0]),
        (b"[1,[]]", {b"null": 2}, 2, 2, [1, 1]),
        (b"[" + b"1," * 64 + b"1]", {b"null": 1}, 1, 1, [0, 0]),
        (b"{}", {b"null": 1}, 1, 1, [0, 0]),
        (b"7", {b"null": 1}, 1, 1, [0, 0]),
        (b" \r", {}, 0, 0, [0, 0]),
        (ASK % b"1" + b"x", {}, 1, 4, [0, 4]),
        (b'{"a":NaN}', {}, 1, 2, [0, 2]),
        (ASK % b'"\xff"', {}, 1, 4, [0, 4]),
        (ASK % b'"\\ud800"', {}, 1, 1, [0, 1]),
        (b"[" * 100_000, {}, 0, 1, [0, 1]),
    ],
    ids=map(str, count()),
)
def test_what_the_contract_makes_of_a_line(line, due, least, most, batches):
    """W-BARE, W-ID, W-NOTIFY, W-BATCH, W-REQUEST: as the fuzzer reads them."""
    expected = reading.expectedOf(line + b"\n")
    assert (dict(expected.due), expected.least, expected.most, expected.batches) == (due, least, most, batches)


ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{"success":true,"message":"m"}}\n'
FAILED = b'{"jsonrpc":"2.0","id":null,"error":%b}\n'


@pytest.mark.parametrize(
    "received",
    [
        b"",
        ANSWER[:-1],
        ANSWER + ANSWER,
        ANSWER.replace(b"1", b"1.0"),
        ANSWER.replace(b'"id":1,', b""),
        ANSWER.replace(b"2.0", b"1.0"),
        ANSWER.replace(b"}\n", b',"error":null}\n'),
        ANSWER[:-1] + ANSWER,
        b"[%b]\n" % ANSWER[:-1],
        b"[]\n",
        b"\n",
        b"null\n",
        ANSWER.replace(b'"m"', b'"\xff"'),
        ANSWER + FAILED % b'{"code":-32700,"message":"m"}',
        FAILED % b'{"code":-32603,"message":"m"}',
        FAILED % b'{"code":-32001,"message":"m"}',
        FAILED % b'{"code":-32600}',
        ANSWER.replace(b'"success":true', b'"_callback_state":2'),
        ANSWER + b'{"jsonrpc":"2.0","method":"$/progress","params":{"token":1,"value":{}}}\n',
    ],
    ids=map(str, count()),
)
def test_wrong_answer_is_judged_wrong(received):
    """W-LINE, W-LAST, W-ID, W-BATCH, W-ERRORS, W-CODES, W-STREAM: as the fuzzer judges them."""
    Judge(ASK % b"1" + b"\n", ANSWER).judge(True, 0)
    with pytest.raises(Found):
        Judge(ASK % b"1" + b"\n", received).judge(True, 0)
