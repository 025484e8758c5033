// Mistake: the reply is more than the echo.
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (data, peer) => {
  console.log(data.toString());
  socket.send("Server received: " + data, peer.port, peer.address);
});
socket.bind(Number(process.argv[2]));
