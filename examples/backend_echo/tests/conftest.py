pytest_plugins = ["rkllm_twisted.testing.guard"]
