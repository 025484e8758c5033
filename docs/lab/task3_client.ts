// Task 3, the client: it sends sentences, one after the other, to "stop".
const port = Number(Deno.args[0] ?? 12000);

// Step 1a: get the IP address and port number of the server.
// Step 1b: create a TCP socket.
// Step 1c: send a connection request to the server.
const conn = await Deno.connect({ hostname: "127.0.0.1", port });

// The client requires input from the user: lines, with their line ends.
console.log("Type sentences, and stop at the end:");
const keyboard = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
const buffer = new Uint8Array(1024);
for await (const line of keyboard) {
  // Step 1c.i: send and receive data with the server.
  await conn.write(new TextEncoder().encode(line));
  const size = await conn.read(buffer);
  if (size === null) break; // the server sends no more
  const echo = new TextDecoder().decode(buffer.subarray(0, size)).trim();
  console.log("echo:", echo);
  if (line.trim() === "stop") break;
}

// Step 1c.ii: close the socket.
conn.close();
