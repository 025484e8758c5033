// Task 2, the client: it prints the echo of its sentence.
const port = Number(Deno.args[0] ?? 12000);

// Step 1a: get the IP address and port number of the server.
// Step 1b: create a TCP socket.
// Step 1c: send a connection request to the server.
const conn = await Deno.connect({ hostname: "127.0.0.1", port });

// The client requires input from the user: a line, with its line end.
console.log("Type a sentence:");
const keyboard = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
const lines = keyboard.getReader();
const { value: line } = await lines.read();
await lines.cancel(); // one is enough

// Step 1c.i: send and receive data with the server.
await conn.write(new TextEncoder().encode(line));
const buffer = new Uint8Array(1024);
const size = await conn.read(buffer) ?? 0;
const echo = new TextDecoder().decode(buffer.subarray(0, size)).trim();
console.log("echo:", echo);

// Step 1c.ii: close the socket.
conn.close();
