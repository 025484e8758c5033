// Mistake: a rejected promise, as by a client's reset, is caught nowhere.
const listener = Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });

async function serve(conn: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(4096);
  for (let size; (size = await conn.read(buffer)) !== null;) {
    const text = new TextDecoder().decode(buffer.subarray(0, size));
    console.log(text);
    for (let at = 0; at < size;) at += await conn.write(buffer.subarray(at, size));
    if (["stop", "exit"].includes(text.trim())) break;
  }
  conn.close();
}

for await (const conn of listener) serve(conn);
