// Mistake: what one read brings is taken for one echo: the second of two is not shown.
const conn = await Deno.connect({ port: Number(Deno.args[0]) });
const decoder = new TextDecoder();

async function printEchoes(): Promise<void> {
  const buffer = new Uint8Array(4096);
  for (let size; (size = await conn.read(buffer)) !== null;) {
    console.log(decoder.decode(buffer.subarray(0, size)).split("\n")[0]);
  }
  Deno.exit(0); // the server closed the connection
}

printEchoes();
for await (const typed of Deno.stdin.readable) await conn.write(typed);
await conn.closeWrite();
