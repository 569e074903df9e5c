"""Lines into requests, results into lines: the wire contract without Twisted, I/O or a clock."""
