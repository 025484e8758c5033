// Mistake: nothing is echoed before a line end has come.
const listener = Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });

async function serve(conn: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(65_536);
  let line: number[] = [];
  for (let size; (size = await conn.read(buffer)) !== null;) {
    line.push(...buffer.subarray(0, size));
    const length = line.lastIndexOf(10) + 1;
    if (length === 0) continue;
    const sentences = Uint8Array.from(line.slice(0, length));
    line = line.slice(length);
    const text = new TextDecoder().decode(sentences);
    console.log(text);
    await writeAll(conn, sentences);
    if (["stop", "exit"].includes(text.trim())) break;
  }
  conn.close();
}

async function writeAll(conn: Deno.Conn, bytes: Uint8Array): Promise<void> {
  for (let rest = bytes; rest.length > 0;) rest = rest.subarray(await conn.write(rest));
}

while (true) serve(await listener.accept()).catch((error) => console.log(error.message));
