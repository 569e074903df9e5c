// A client that ends nothing with a line feed: it writes each request bare, and ends its writing side after the last.
// With "packet" as the last argument all requests go out in one write, with "pieces" in pieces of seven bytes.
// Prints what came, as one JSON array.

const socket = require('net').connect(process.argv[2]);
const way = process.argv[3];

const requests = [
  { jsonrpc: '2.0', id: 'load', method: 'rkllm.init', params: [null, { model_path: 'any' }, null] },
  { jsonrpc: '2.0', id: 'run', method: 'rkllm.run', params: [null, { prompt_input: 'a } "] b' }, null, null] },
  { jsonrpc: '2.0', id: 'free', method: 'rkllm.destroy', params: [null] },
].map((request) => JSON.stringify(request));

let received = '';

function send(pieces) {
  if (!pieces.length) return;
  socket.write(pieces[0], () => setImmediate(send, pieces.slice(1)));
}

socket.on('connect', () => {
  if (way === 'packet') send([requests.join('')]);
  else if (way === 'pieces') send(requests.join('').match(/.{1,7}/g));
  else send(requests);
});
socket.on('data', (data) => {
  received += data;
  const lines = received.split('\n').filter((line) => line);
  if (received.endsWith('\n') && JSON.parse(lines[lines.length - 1]).id === 'free') socket.end();
});
socket.on('close', () => {
  const lines = received.split('\n').filter((line) => line);
  console.log(JSON.stringify(lines.map((line) => JSON.parse(line))));
});
