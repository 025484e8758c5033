// Mistake: what comes is sent back in upper case.
const net = require("node:net");

net.createServer((socket) => {
  socket.on("error", () => {});
  socket.on("data", (data) => {
    console.log(data.toString());
    socket.write(data.toString().toUpperCase());
    if (data.toString().trim() === "stop") socket.end();
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
