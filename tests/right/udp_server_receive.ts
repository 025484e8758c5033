// Deno: receive and send.
const port = Number(Deno.args[0]);
const socket = Deno.listenDatagram({ transport: "udp", hostname: "0.0.0.0", port });
console.log("%cready", "color: green");
for await (const [data, peer] of socket) {
  console.log(new TextDecoder().decode(data));
  await socket.send(data, peer);
}
