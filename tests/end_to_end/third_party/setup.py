"""A package of somebody else's that brings a backend."""

from setuptools import setup

setup(name="shouting-backend", version="1", packages=["shouting", "twisted.plugins"])
