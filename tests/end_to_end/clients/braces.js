// A client that knows nothing of lines: it reads the stream as documents one behind the other, and finds the end of each
// by counting braces outside of strings. Prints what came, as one JSON array.

const socket = require('net').connect(process.argv[2]);

const received = [];
let text = '';
let depth = 0;
let isInString = false;
let isEscaped = false;

function take(character) {
  if (depth > 0 || character === '{') text += character;
  if (isInString) {
    if (isEscaped) isEscaped = false;
    else if (character === '\\') isEscaped = true;
    else if (character === '"') isInString = false;
  } else if (character === '"') {
    isInString = true;
  } else if (character === '{') {
    depth += 1;
  } else if (character === '}') {
    depth -= 1;
    if (depth === 0) {
      received.push(JSON.parse(text));
      text = '';
    }
  }
}

socket.setEncoding('utf8');
socket.on('connect', () => {
  const ask = (id, method, params) => socket.write(JSON.stringify({ jsonrpc: '2.0', id, method, params }) + '\n');
  ask(1, 'rkllm.init', [null, { model_path: 'any' }, null]);
  ask(2, 'rkllm.run_async', [null, { prompt_input: '{ "}" \\ 🦊 }}' }, { mode: 0 }, null]);
  ask('}{', 'rkllm.is_running', []);
});
socket.on('data', (data) => {
  for (const character of data) take(character);
  const last = received[received.length - 1];
  if (last && last.id === 2 && last.result._callback_state === 2) socket.end();
});
socket.on('close', () => console.log(JSON.stringify(received)));
