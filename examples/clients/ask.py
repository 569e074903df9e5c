import json, os, socket, sys

daemon = socket.socket(socket.AF_UNIX)
daemon.connect(os.environ.get("RKLLM_UDS_PATH", "/tmp/rkllm.sock"))
params = [None, {"prompt_input": sys.argv[1]}, None, None]
daemon.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": params}).encode() + b"\n")
for answer in map(json.loads, daemon.makefile("rb")):
    result = answer.get("result", answer)
    print(result.get("text") or "", end="", flush=True)
    if result.get("_callback_state") not in (0, 1):
        sys.exit(result.get("error", {}).get("message"))
sys.exit("the daemon has gone")
