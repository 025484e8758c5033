// Mistake: the echo is in capital letters, as in the textbook's example.
const socket = Deno.listenDatagram({
  transport: "udp",
  hostname: "127.0.0.1",
  port: Number(Deno.args[0]),
});
while (true) {
  const [sentence, peer] = await socket.receive();
  const text = new TextDecoder().decode(sentence);
  console.log(text);
  await socket.send(new TextEncoder().encode(text.toUpperCase()), peer);
}
