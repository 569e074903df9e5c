#!/bin/sh
# Needs jq, and the nc of OpenBSD (Debian's netcat-openbsd) for its -U and -N.
jq -cn --arg prompt "$1" '{jsonrpc: "2.0", id: 1, method: "rkllm.run", params: [null, {prompt_input: $prompt}, null, null]}' |
    nc -N -U "${RKLLM_UDS_PATH:-/tmp/rkllm.sock}" |
    jq -jn --unbuffered '(inputs?, {error: {message: "the daemon has gone"}}) | (.error // .result.error) as $error
        | if $error then $error.message + "\n" | halt_error(1) else .result.text // empty end,
          if .result._callback_state == 2 then halt else empty end'
