// Node: line by line, with the line end taken off and put back.
const net = require("node:net");
const readline = require("node:readline");

net.createServer(async (socket) => {
  socket.on("error", () => {});
  for await (const line of readline.createInterface({ input: socket })) {
    process.stdout.write(`> ${line}\n`);
    socket.write(line + "\n");
    if (line === "stop") break;
  }
  socket.end();
}).listen(Number(process.argv[2]), "127.0.0.1");
