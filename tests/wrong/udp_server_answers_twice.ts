// Mistake: each datagram is answered twice.
const socket = Deno.listenDatagram({
  transport: "udp",
  hostname: "127.0.0.1",
  port: Number(Deno.args[0]),
});
while (true) {
  const [sentence, peer] = await socket.receive();
  console.log(new TextDecoder().decode(sentence));
  await socket.send(sentence, peer);
  await socket.send(sentence, peer);
}
