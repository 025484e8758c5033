// Task 4, the server: UDP. Outside this repository it needs --unstable-net.
const port = Number(Deno.args[0] ?? 12000);

// Step 1: create a UDP socket.
// Step 2: choose a port number and IP address, and attach the socket to them.
const socket = Deno.listenDatagram({
  hostname: "127.0.0.1",
  port,
  transport: "udp",
});
console.log("ready on port", port);

// Steps 3 and 4: none. No connection is required.

while (true) {
  // Step 5: receive data, and send it back to where it came from.
  const [data, address] = await socket.receive(new Uint8Array(1024));
  const client = address as Deno.NetAddr;
  const sentence = new TextDecoder().decode(data).trim();
  console.log("received:", sentence, "from", client.hostname, client.port);
  await socket.send(data, client);
}

// Step 6: none. There is one socket, for all clients; Ctrl-C closes it.
