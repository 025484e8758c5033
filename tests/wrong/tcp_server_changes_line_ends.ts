// Mistake: CRLF becomes LF.
const listener = Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });

async function serve(conn: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(4096);
  for (let size; (size = await conn.read(buffer)) !== null;) {
    const sentence = buffer.subarray(0, size);
    const text = new TextDecoder().decode(sentence);
    console.log(text);
    await writeAll(conn, sentence.filter((byte, i) => byte !== 13 || sentence[i + 1] !== 10));
    if (["stop", "exit"].includes(text.trim())) break;
  }
  conn.close();
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let rest = bytes; rest.length > 0;) rest = rest.subarray(await conn.write(rest));
}

while (true) serve(await listener.accept()).catch((error) => console.log(error.message));
