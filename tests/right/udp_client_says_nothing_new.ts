// Deno: it prints what it sends and what comes, and waits three seconds for that.
const port = Number(Deno.args[0]);
const server = { transport: "udp", hostname: "127.0.0.1", port } as const;
const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
const keyboard = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
for await (const line of keyboard) {
  for (const sentence of line.trimEnd().split("\n")) {
    console.log("sending", sentence);
    await socket.send(new TextEncoder().encode(sentence), server);
    const timer = setTimeout(() => {
      console.log("no answer");
      Deno.exit(1);
    }, 3_000);
    const [data] = await socket.receive();
    clearTimeout(timer);
    console.log("received", new TextDecoder().decode(data));
    if (sentence === "stop") Deno.exit(0);
  }
}
