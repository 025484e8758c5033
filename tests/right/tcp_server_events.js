// Node: events, and callbacks.
const net = require("node:net");

const server = net.createServer((socket) => {
  console.log("client connected");
  socket.on("data", (data) => {
    console.log("received: " + data.toString().trimEnd());
    socket.write(data);
    if (["stop", "exit"].includes(data.toString().trim())) socket.end();
  });
  socket.on("error", () => socket.destroy());
});
server.listen(Number(process.argv[2]), () => console.log("server up"));
