// A client that wants one answer: a connection for each call, and gone as soon as a document with its id is there.
// Prints each call's first document, as one JSON array.

const net = require('net');
const path = process.argv[2];

const calls = [
  ['rkllm.init', [{ model_path: 'any' }]],
  ['rkllm.get_constants', []],
  ['rkllm.run', [null, { prompt_input: 'one two three' }, null, null]],
  ['rkllm.run_async', [null, { prompt_input: 'one two three' }, null, null]],
  ['rkllm.nope', []],
  ['rkllm.is_running', [null]],
];

function firstDocument(id, method, params) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(path);
    let text = '';
    socket.on('connect', () => socket.write(JSON.stringify({ jsonrpc: '2.0', id, method, params })));
    socket.on('error', reject);
    socket.on('data', (data) => {
      text += data;
      for (const part of text.split('\n')) {
        let document;
        try {
          document = JSON.parse(part);
        } catch {
          continue;
        }
        if (document.id !== id) continue;
        socket.destroy();
        resolve(document);
        return;
      }
    });
  });
}

(async () => {
  const received = [];
  for (const [number, [method, params]] of calls.entries()) {
    received.push(await firstDocument(100 + number, method, params));
  }
  console.log(JSON.stringify(received));
})();
