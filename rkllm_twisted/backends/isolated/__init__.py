"""Any blocking backend in a child process of its own, so that what ends or hangs it ends or hangs nothing else.

The rooms, along the way of a request::

    backend.py     IModelBackend: a child for each model
    model.py       IModel: its functions, and whether a run may start
    generation.py  IGeneration: a run, and how long each of its steps may take
    keeping.py     the child of a model: started, brought back after its death, exchanged when it has grown
    journal.py     what must be done again to bring a new child to where the old one was
    limits.py      how long a child may take for what, and how large it may grow
    process.py     one child: its pipes and its end
    output.py      what it prints
    frames.py      the bytes on the pipes
    calls.py       what the frames say
    child.py       the other side: the program that runs the runtime

The parent imports no runtime's library and the child no reactor. Results that are sent line by line are spelled in the
child, once, and forwarded as they are.
"""
