package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
)

type failure struct{ Message string }

func main() {
	path := os.Getenv("RKLLM_UDS_PATH")
	if path == "" {
		path = "/tmp/rkllm.sock"
	}
	daemon, err := net.Dial("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	params := []any{nil, map[string]any{"prompt_input": os.Args[1]}, nil, nil}
	json.NewEncoder(daemon).Encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": params})
	for lines, state := json.NewDecoder(daemon), 0; state < 2; {
		var answer struct {
			Error  failure
			Result struct {
				Text  string
				State int `json:"_callback_state"`
				Error failure
			}
		}
		if err := lines.Decode(&answer); err != nil {
			log.Fatal("the daemon has gone: ", err)
		}
		if why := answer.Error.Message + answer.Result.Error.Message; why != "" {
			log.Fatal(why)
		}
		fmt.Print(answer.Result.Text)
		state = answer.Result.State
	}
}
