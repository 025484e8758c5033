// Task 2, the server: it echoes back whatever it listens from the client.
const port = Number(Deno.args[0] ?? 12000);

// Step 1: create a TCP socket.
// Step 2: choose a port number and IP address, and attach the socket to them.
// Step 3: listen for an incoming connection request.
const listener = Deno.listen({ hostname: "127.0.0.1", port });
console.log("listening on port", port);

// Step 4: a request is received; create a new socket for this client.
const conn = await listener.accept();
const client = conn.remoteAddr;
console.log("connection from", client.hostname, client.port);

// Step 5: receive data from the client, and send it back.
const buffer = new Uint8Array(1024);
const size = await conn.read(buffer) ?? 0;
const data = buffer.subarray(0, size);
const sentence = new TextDecoder().decode(data).trim();
console.log("received:", sentence);
await conn.write(data);

// Step 6: close all the sockets.
conn.close();
listener.close();
