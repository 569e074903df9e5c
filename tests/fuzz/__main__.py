"""``python -m tests.fuzz``: see `tests.fuzz.program`."""

from tests.fuzz.program import main

if __name__ == "__main__":
    main()
