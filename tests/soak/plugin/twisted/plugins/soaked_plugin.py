from rkllm_twisted.backends import BackendMaker

soaked = BackendMaker("soaked", "says the prompt at 2000 words a second, for the soak", "soaked.makeBackend")
