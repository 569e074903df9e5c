"""What all tests share."""

pytest_plugins = ("rkllm_twisted.testing.guard",)
