const daemon = require("net").connect(process.env.RKLLM_UDS_PATH || "/tmp/rkllm.sock");
const params = [null, { prompt_input: process.argv[2] }, null, null];
daemon.write(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "rkllm.run", params }) + "\n");
require("readline").createInterface({ input: daemon }).on("line", (line) => {
  const answer = JSON.parse(line);
  const { text, error = answer.error, _callback_state: state } = answer.result || {};
  process.stdout.write(text || "");
  if (error) console.error(error.message);
  if (state !== 0 && state !== 1) { process.exitCode = error ? 1 : 0; daemon.end(); }
}).on("close", () => {
  if (process.exitCode === undefined) { console.error("the daemon has gone"); process.exitCode = 1; }
});
