// Mistake: of two sentences that one read of the keyboard brings, the second's echo is not shown.
const conn = await Deno.connect({ port: Number(Deno.args[0]) });
const decoder = new TextDecoder();
for await (const typed of Deno.stdin.readable) {
  await conn.write(typed);
  const buffer = new Uint8Array(4096);
  let size = 0;
  while (size < typed.length) {
    const read = await conn.read(buffer.subarray(size));
    if (read === null) throw new Error("the server closed the connection");
    size += read;
  }
  const echo = decoder.decode(buffer.subarray(0, size)).split("\n")[0]!;
  console.log(echo);
  if (["stop", "exit"].includes(echo)) break;
}
conn.close();
