// Task 4, the client: UDP. Outside this repository it needs --unstable-net.
const port = Number(Deno.args[0] ?? 12000);

// Step 1a: get the IP address and port number of the server.
const server = { hostname: "127.0.0.1", port, transport: "udp" } as const;
// Step 1b: create a UDP socket, at any free port.
const socket = Deno.listenDatagram({
  hostname: "127.0.0.1",
  port: 0,
  transport: "udp",
});
// Step 1c: none. No connection is required.

// The client requires input from the user: lines, each without its line end.
console.log("Type sentences, and stop at the end:");
const keyboard = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
for await (const line of keyboard) {
  // Step 1c.i: send and receive data with the server.
  await socket.send(new TextEncoder().encode(line.trim()), server);
  const [data] = await socket.receive(new Uint8Array(1024));
  const echo = new TextDecoder().decode(data).trim();
  console.log("echo:", echo);
  if (line.trim() === "stop") break;
}

// Step 1c.ii: close the socket.
socket.close();
