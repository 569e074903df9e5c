from rkllm_twisted.backends import BackendMaker

shouting = BackendMaker("shouting", "repeats the prompt in capitals", "shouting.makeBackend")
