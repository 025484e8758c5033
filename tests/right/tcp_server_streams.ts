// Web streams; a connection that fails ends alone.
const listener = Deno.listen({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });

async function serve(conn: Deno.TcpConn): Promise<void> {
  const writer = conn.writable.getWriter();
  const decoder = new TextDecoder();
  for await (const piece of conn.readable) {
    const text = decoder.decode(piece, { stream: true });
    console.log(text);
    await writer.write(piece);
    if (text.trim() === "stop") break;
  }
  await writer.close();
}

while (true) {
  try {
    serve(await listener.accept()).catch(() => {});
  } catch {
    // That client had left already.
  }
}
