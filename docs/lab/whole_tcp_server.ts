// The whole TCP server: whole sentences, several clients, an orderly end.
const STOP_WORD = /^[ \t\v\f\r\n]*(stop|exit)[ \t\v\f\r\n]*$/;
const MAX_LENGTH = 1000; // of a sentence is printed
const KEPT = MAX_LENGTH + 2; // with its line end; all the rest is only echoed
const SILENCE_MS = 500; // then a sentence without a line end is over, too
const GRACE_MS = 5000; // for a client to close, once we have

/** What a promise gives, or undefined if that takes longer. */
function within<T>(result: Promise<T>, ms: number): Promise<T | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(resolve, ms, undefined);
  return Promise.race([result, late]).finally(() => clearTimeout(timer));
}

/** Prints a sentence. Returns whether it is a stop word. */
function isStop(line: string, name: string): boolean {
  console.log(`[${name}] ${line.slice(0, MAX_LENGTH).replace(/\r?\n$/, "")}`);
  return line.length < KEPT && STOP_WORD.test(line);
}

/** Writes all of it, where one `write()` may take a part. */
async function writeAll(conn: Deno.TcpConn, data: Uint8Array): Promise<void> {
  while (data.length > 0) data = data.subarray(await conn.write(data));
}

/** Steps 5 and 6 for one client. */
async function serve(conn: Deno.TcpConn, name: string): Promise<void> {
  using _closing = conn; // at the end of this function comes close()
  const buffer = new Uint8Array(4096);
  const decoder = new TextDecoder();
  let line = ""; // what has come of the sentence at hand
  let [isStopped, wasSilent] = [false, false]; // a line end may still come
  // Step 5: receive and send, until a stop word or the end of the input.
  let reading = conn.read(buffer);
  while (!isStopped) {
    const size = line ? await within(reading, SILENCE_MS) : await reading;
    if (!size) { // silence, or null: the client sends no more
      if (line) isStopped = isStop(line, name);
      if (size === null) break;
      [line, wasSilent] = ["", true];
      continue;
    }
    for (let start = 0, end = 0; start < size && !isStopped; start = end) {
      end = buffer.subarray(0, size).indexOf(10, start) + 1 || size;
      const piece = buffer.subarray(start, end); // cut behind a line end
      await writeAll(conn, piece);
      line = (line + decoder.decode(piece, { stream: true })).slice(0, KEPT);
      if (piece.at(-1) !== 10) break;
      isStopped = !(wasSilent && /^\r?\n$/.test(line)) && isStop(line, name);
      [line, wasSilent] = ["", false];
    }
    reading = conn.read(buffer);
  }
  await conn.closeWrite(); // a FIN, behind the last echo
  const deadline = Date.now() + GRACE_MS;
  while (await within(reading, GRACE_MS) && Date.now() < deadline) {
    reading = conn.read(buffer); // close() resets, where bytes are unread
  }
}

const port = Number(Deno.args[0] ?? 12000);
// Steps 1 to 3: a socket, its address and port; listen.
const listener = Deno.listen({ hostname: "127.0.0.1", port });
console.log("listening on port", port);
const serving = new Set<Promise<void>>(); // at most 500 at once
while (true) {
  try {
    // Step 4: a request is received; create a new socket for this client.
    const conn = await listener.accept();
    const name = `${conn.remoteAddr.hostname}:${conn.remoteAddr.port}`;
    const done = serve(conn, name) // is not waited for: the next client comes
      .catch((error) => console.log(`[${name}] is lost: ${error.message}`))
      .finally(() => serving.delete(done));
    serving.add(done);
    if (serving.size === 500) await Promise.race(serving);
  } catch (error) { // this client has gone, or no descriptor is free
    console.log("cannot accept:", (error as Error).message);
    await new Promise((resolve) => setTimeout(resolve, 10)); // ms
  }
}
