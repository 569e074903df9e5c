"""What the daemon costs, measured against programs that do the least possible.

The rooms::

    __main__.py     `python -m benchmarks`: all of it, or some rows, or one quick round
    native/         C: the load generator, and an echo
    bare/           Twisted: the least for a call, the least for a stream
    building.py     compiles what is C
    client.py       a plain client, for what has no hurry
    servers.py      starts and watches the daemon and the others
    load.py         calls the load generator
    stage.py        what a measurement has at hand
    rows.py         a row of the table: what is measured, of whom, against what goal
    calls.py, streams.py, tensors.py, sizes.py, scale.py     the rows
    rounds.py       turns and rounds, medians and ratios
    report.py       the table, and JSON; plots.py: figures
    counting.py     instructions instead of time, against baseline.json; counted.py: servers under callgrind
    llamacpp/       the CPU backend with a real model, against llama.cpp itself
"""
