from rkllm_twisted.backends import BackendMaker

echo = BackendMaker("echo", "says the prompt again, times=N times", "echo_backend.makeBackend")
