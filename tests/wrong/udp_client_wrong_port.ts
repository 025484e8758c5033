// Mistake: the port that was given is not used.
const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
const server = { transport: "udp", hostname: "127.0.0.1", port: 12_001 } as const;
for await (const typed of Deno.stdin.readable) {
  await socket.send(typed, server);
  const [echo] = await socket.receive();
  console.log(new TextDecoder().decode(echo));
}
