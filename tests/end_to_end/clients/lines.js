// A client of the C server: one request a line, one answer a line, in the order and the shapes of its README.
// Prints what came, as one JSON array.

const socket = require('net').connect(process.argv[2]);
const model = process.argv[3];
const prompt = process.argv[4];

const requests = [
  {
    jsonrpc: '2.0',
    id: 1,
    method: 'rkllm.init',
    params: [{ model_path: model, max_context_len: 512, max_new_tokens: 256, temperature: 0.8, top_p: 0.9, top_k: 1 }],
  },
  {
    jsonrpc: '2.0',
    id: 2,
    method: 'rkllm.run_async',
    params: [null, { input_type: 0, prompt_input: prompt }, { mode: 0, keep_history: 0 }, null],
  },
  {
    jsonrpc: '2.0',
    id: 3,
    method: 'rkllm.load_lora',
    params: [{ lora_adapter_path: './models/lora/lora.rkllm', lora_adapter_name: 'custom_adapter', scale: 1.0 }],
  },
];

const received = [];
let rest = '';

function ask() {
  socket.write(JSON.stringify(requests.shift()) + '\n');
}

function hasEnded({ id, result, error }) {
  return error !== undefined || id !== 2 || result._callback_state === 2 || result._callback_state === 3;
}

socket.on('connect', ask);
socket.on('data', (data) => {
  const lines = (rest + data).split('\n');
  rest = lines.pop();
  for (const line of lines) {
    const message = JSON.parse(line);
    received.push(message);
    if (!hasEnded(message)) continue;
    if (requests.length) ask();
    else socket.end();
  }
});
socket.on('close', () => console.log(JSON.stringify(received)));
