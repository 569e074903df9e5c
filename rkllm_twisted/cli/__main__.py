"""``python -m rkllm_twisted.cli``, for where the ``rkllm`` command is not on the path."""

from rkllm_twisted.cli import main

main()
