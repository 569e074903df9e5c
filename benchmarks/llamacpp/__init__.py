"""What the daemon costs on top of llama.cpp: the CPU backend with a real model against the C functions themselves."""
