// Deno's prompt(), which answers null where there is no terminal.
const conn = await Deno.connect({ port: Number(Deno.args[0]) });
const buffer = new Uint8Array(65_536);
while (true) {
  const sentence = prompt("Sentence:");
  if (sentence === null) break;
  if (sentence === "") continue;
  await conn.write(new TextEncoder().encode(sentence));
  const size = await conn.read(buffer);
  if (size === null) {
    console.log("The server has closed the connection.");
    break;
  }
  console.log("Echo:", new TextDecoder().decode(buffer.subarray(0, size)));
  if (sentence === "stop") break;
}
conn.close();
