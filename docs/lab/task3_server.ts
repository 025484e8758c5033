// Task 3, the server: it closes a connection only upon receiving "stop".
const port = Number(Deno.args[0] ?? 12000);

// Step 1: create a TCP socket.
// Step 2: choose a port number and IP address, and attach the socket to them.
// Step 3: listen for an incoming connection request.
const listener = Deno.listen({ hostname: "127.0.0.1", port });
console.log("listening on port", port);

while (true) {
  // Step 4: a request is received; create a new socket for this client.
  const conn = await listener.accept();
  const client = conn.remoteAddr;
  console.log("connection from", client.hostname, client.port);

  // Step 5: receive data from the client, and send it back.
  const buffer = new Uint8Array(1024);
  while (true) {
    const size = await conn.read(buffer);
    if (size === null) break; // the client sends no more
    const data = buffer.subarray(0, size);
    const sentence = new TextDecoder().decode(data).trim();
    console.log("received:", sentence);
    await conn.write(data);
    if (sentence === "stop") break;
  }

  // Step 6: close the client's socket; the listener waits for the next one.
  conn.close();
}
