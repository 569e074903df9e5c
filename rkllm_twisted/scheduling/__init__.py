"""Who has the model now, and who is next: without Twisted, I/O or real time."""
