"""What a process can be told to do to itself, whatever it is in the midst of."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

from rkllm_twisted.errors import (
    InvalidParams,
    ModelLoadFailed,
    NotSupported,
    PromptTooLong,
    RKLLMError,
    RuntimeCallFailed,
)

C = ctypes.CDLL(None)
HOLDING = ctypes.PyDLL(None)
"""The same library, called without letting other threads of Python go on."""
RESULTS = 4
kept = []
"""What is never freed."""


class OwnError(RKLLMError):
    """an error of this backend's own, of no code of the wire"""


RAISED = {
    "NotSupported": lambda: NotSupported(needs="more than this"),
    "InvalidParams": lambda: InvalidParams("$.param.top_k: expected less, got more"),
    "ModelLoadFailed": lambda: ModelLoadFailed("this file is none"),
    "PromptTooLong": lambda: PromptTooLong(tokens=9, limit=8),
    "RuntimeCallFailed": lambda: RuntimeCallFailed("-1 came back", function="rkllm_run", status=-1),
    "OwnError": lambda: OwnError("unheard of"),
    "Unspeakable": lambda: InvalidParams("with what no message can say", value=object()),
    "ValueError": lambda: ValueError("a defect"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
}


def sendSignal(value):
    """Die of a signal: its name, or its number."""
    os.kill(os.getpid(), int(value) if value.isdigit() else signal.Signals[f"SIG{value}"])
    pause(value)  # it may reach another thread first


def readNothing(value):
    """SIGSEGV, as the processor sends it."""
    ctypes.string_at(0)


def abort(value):
    """SIGABRT, as the C library sends it."""
    C.abort()


def exitNow(value):
    """Exit, from the thread that this is."""
    os._exit(int(value))


def pause(value):
    """Hang in C."""
    while True:
        C.pause()


def hold(value):
    """Hang in C, and with it all that is Python."""
    HOLDING.pause()


def wait(value):
    """Hang in Python."""
    threading.Event().wait()


def fail(value):
    """Raise one of `RAISED`."""
    raise RAISED[value]()


def grow(value):
    """Take so many MB, and keep them."""
    kept.append(bytearray(os.urandom(4096) * (int(value) * 256)))


def file(value):
    """Fail if there is no such file."""
    if not os.path.exists(value):
        raise ModelLoadFailed(f"there is no {os.path.basename(value)}")


def onlyWith(value):
    """Leave out the rest if there is no such file."""
    return None if os.path.exists(value) else StopIteration


def onlyOnce(value):
    """Leave out the rest from the second time on; the file tells."""
    if os.path.exists(value):
        return StopIteration
    open(value, "w").close()
    return None


def write(value):
    """Write to a descriptor, as ``2,lines,1000``."""
    number, what, count = value.split(",")
    data = {
        "lines": lambda count: b"".join(b"line %d\n" % index for index in range(count)),
        "empty": lambda count: b"\n" * count,
        "blob": lambda count: b"x" * count,
        "binary": lambda count: bytes(range(256)) * count,
    }[what](int(count))
    while data:
        data = data[os.write(int(number), data) :]


def flood(value):
    """Write lines for ever, in a thread of its own."""

    def writeOn():
        while True:
            os.write(int(value), b"and on and on\n" * 100)

    threading.Thread(target=writeOn, daemon=True).start()


def printLine(value):
    """Print a line as C does, into the buffer of C."""
    C.printf(b"%s\n", value.encode())


def pythonLine(value):
    """Print a line as Python does."""
    print(value)


def garbage(value):
    """Write to the pipe of the results what is none."""
    data = {
        "random": bytes((index * 7919) % 251 for index in range(5000)),
        "much": b"\xff" * 500000,
        "zeros": bytes(5000),
        "endless": b"\x00\x00\x00\x00\x00\x00\x00\x40\x03\x01\x00\x00\x00",
        "stranger": b"\x00\x00\x00\x00\x00\x00\x00\x00\x04\xff\xff\x00\x00",
        "result": b"\x03\x00\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\xc1\xc1",
        "answer": b"\x01\x00\x00\x00\x00\x00\x00\x00\x04\x02\x00\x00\x00\xc1",
        "empty": b"\x00\x00\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00",
    }[value]
    while data:
        data = data[os.write(RESULTS, data) :]


def close(value):
    """Close a descriptor."""
    os.close(int(value))


def orphan(value):
    """Start a process that keeps the pipes open after this one; its id goes into a file."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    with open(value, "w") as place:
        place.write(str(process.pid))


ORDERS = {
    "signal": sendSignal,
    "segfault": readNothing,
    "assert": abort,
    "exit": exitNow,
    "pause": pause,
    "hold": hold,
    "wait": wait,
    "raise": fail,
    "grow": grow,
    "file": file,
    "with": onlyWith,
    "once": onlyOnce,
    "write": write,
    "flood": flood,
    "printf": printLine,
    "print": pythonLine,
    "garbage": garbage,
    "close": close,
    "orphan": orphan,
    "nofinish": lambda value: None,
    "return": lambda value: None,
}
