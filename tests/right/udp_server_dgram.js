// Node: dgram.
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (data, peer) => {
  console.log(`${peer.address}:${peer.port} ${data}`);
  socket.send(data, peer.port, peer.address);
});
socket.bind(Number(process.argv[2]), () => console.log("bound"));
