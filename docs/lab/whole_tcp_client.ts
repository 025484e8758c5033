// The whole TCP client: it reads while it writes, and compares what comes back.
const STOP_WORD = /(^|\n)[ \t\v\f\r]*(stop|exit)[ \t\v\f\r\n]*$/;

const owed: Uint8Array[] = []; // what was sent and is not echoed yet
let inputEnded = false;
let last = ""; // the last of what was sent

/** Step 1c.i: send what the user types, then a FIN. */
async function sendInput(conn: Deno.TcpConn): Promise<void> {
  for await (const input of Deno.stdin.readable) {
    owed.push(input);
    last = (last + new TextDecoder().decode(input)).slice(-1000);
    let rest = input;
    while (rest.length > 0) rest = rest.subarray(await conn.write(rest));
  }
  inputEnded = true;
  await conn.closeWrite(); // no more to send; echoes may still come
}

/** Whether these bytes are what is owed next, of which they pay off so much. */
function isOwed(echo: Uint8Array): boolean {
  while (echo.length > 0) {
    const next = owed.shift();
    if (!next) return false; // more came than was sent
    const size = Math.min(next.length, echo.length);
    if (size < next.length) owed.unshift(next.subarray(size));
    for (let i = 0; i < size; i++) if (next[i] !== echo[i]) return false;
    echo = echo.subarray(size);
  }
  return true;
}

/** Step 1c.i: print what comes, to the end. Returns what is wrong. */
async function receiveEcho(conn: Deno.TcpConn): Promise<string | undefined> {
  const buffer = new Uint8Array(65536);
  let isSame = true;
  for (let size; (size = await conn.read(buffer)) !== null;) {
    const echo = buffer.subarray(0, size);
    for (let rest = echo; rest.length > 0;) {
      rest = rest.subarray(await Deno.stdout.write(rest));
    }
    isSame &&= isOwed(echo);
  }
  if (!isSame) return "the echo differs from what was sent";
  const missing = owed.reduce((sum, { length }) => sum + length, 0);
  if (missing > 0) return `the server closed: ${missing} bytes are not echoed`;
  if (!inputEnded && !STOP_WORD.test(last)) {
    return "the server closed before the end of the input";
  }
}

// Step 1a: get the IP address and port number of the server.
const server = { hostname: "127.0.0.1", port: Number(Deno.args[0] ?? 12000) };
let wrong: string | undefined;
try {
  // Steps 1b and 1c: a socket, and a connection within 5 seconds.
  const signal = AbortSignal.timeout(5000);
  const conn = await Deno.connect({ ...server, signal });
  console.error("Type sentences, and stop at the end:");
  sendInput(conn).catch(() => {}); // it is gone: read() will end, too
  wrong = await receiveEcho(conn);
  // Step 1c.ii: close the socket.
  conn.close();
} catch (error) {
  wrong = `${server.hostname}:${server.port}: ${(error as Error).message}`;
}
if (wrong) console.error(wrong);
Deno.exit(wrong ? 1 : 0); // a read of the keyboard may still wait
