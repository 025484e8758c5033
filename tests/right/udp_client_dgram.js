// Node: one sentence after the other; what is not answered in two seconds is reported.
const socket = require("node:dgram").createSocket("udp4");
const port = Number(process.argv[2]);
const rl = require("node:readline").createInterface({ input: process.stdin });

function ask(sentence) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve("(lost)"), 2000);
    socket.once("message", (data) => {
      clearTimeout(timer);
      resolve(data.toString());
    });
    socket.send(sentence, port, "127.0.0.1");
  });
}

(async () => {
  for await (const line of rl) {
    console.log("answer: " + await ask(line));
    if (line === "exit") break;
  }
  socket.close();
  rl.close();
})();
