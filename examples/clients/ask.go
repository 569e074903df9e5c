package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
)

type failure struct{ Message string }

type line struct {
	Error  *failure
	Result struct {
		Text  string
		State int `json:"_callback_state"`
		Error *failure
	}
}

func main() {
	path := "/tmp/rkllm.sock"
	if given := os.Getenv("RKLLM_UDS_PATH"); given != "" {
		path = given
	}
	daemon, err := net.Dial("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	params := []any{nil, map[string]any{"prompt_input": os.Args[1]}, nil, nil}
	json.NewEncoder(daemon).Encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "rkllm.run", "params": params})
	for lines, got := json.NewDecoder(daemon), (line{}); got.Result.State < 2; fmt.Print(got.Result.Text) {
		got = line{}
		if err := lines.Decode(&got); err != nil {
			log.Fatal(err)
		}
		for _, failed := range []*failure{got.Error, got.Result.Error} {
			if failed != nil {
				log.Fatal(failed.Message)
			}
		}
	}
}
