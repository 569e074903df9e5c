"""``rkllm doctor``: looks at a machine and says what it lacks to serve a model. Changes nothing.

The rooms::

    findings.py   what a check returns
    machine.py    what /proc, /sys and /dev say
    npu.py        checks of the chip, its driver, its device nodes and the CPUs that feed it
    library.py    checks of librkllmrt
    resources.py  checks of memory, model file, socket and file descriptors
    serving.py    all of them in order, and which backends can serve
    telling.py    the report in plain words
"""
