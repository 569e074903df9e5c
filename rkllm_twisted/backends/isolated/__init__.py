"""Any blocking backend in a child process of its own, so that what ends or hangs it ends or hangs nothing else.

The rooms, along the way of a request::

    backend.py    IModelBackend: a child for each model
    model.py      IModel: calls and runs, what is waited for, what comes back after a crash
    journal.py    what must be done again to bring a new child to where the old one was
    process.py    one child: its pipes, its output, its end
    limits.py     how long a child may take for what, and how large it may grow
    frames.py     the bytes on the pipes
    calls.py      what the frames say
    child.py      the other side: the program that runs the runtime

The parent imports no runtime's library and the child no reactor. Results that are sent line by line are spelled in the
child, once, and forwarded as they are.
"""
