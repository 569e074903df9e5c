"""Servers that do the least possible: what they reach is the limit for anything in the same place."""
