// The whole UDP client: it checks who answers what, and sends again.
// Outside this repository it needs --unstable-net.
const STOP_WORD = /^[ \t\v\f\r]*(stop|exit)[ \t\v\f\r]*$/;
const MAX_DATAGRAM = 65507; // bytes: 65,535 less the IP and UDP headers
const TRIES = 4;
const FIRST_WAIT_MS = 200; // doubled at each try

// Step 1a: get the IP address and port number of the server.
const hostname = "127.0.0.1";
const port = Number(Deno.args[0] ?? 12000);
// Step 1b: create a UDP socket, at any free port.
const socket = Deno.listenDatagram({ hostname, port: 0, transport: "udp" });
// Step 1c: none. No connection is required.

/** The sentence whose echo is waited for, and what to call when it comes. */
let waiting: { sentence: Uint8Array; resolve: (echoed: true) => void };

/** Step 1c.i: receive. A receive cannot be given up, so there is one loop. */
async function receiveEchoes(): Promise<void> {
  for await (const [data, address] of socket) {
    const from = address as Deno.NetAddr;
    if (from.hostname !== hostname || from.port !== port) continue;
    // It is the server, and no stranger. A late echo of another sentence?
    const { sentence, resolve } = waiting;
    const isSame = data.length === sentence.length &&
      data.every((byte, i) => byte === sentence[i]);
    if (isSame) resolve(true);
  }
}

/** Step 1c.i: send, and send again. Returns whether the echo came. */
async function request(sentence: Uint8Array): Promise<boolean> {
  const echo = Promise.withResolvers<true>();
  waiting = { sentence, resolve: echo.resolve };
  for (let i = 0; i < TRIES; i++) {
    const silence = Promise.withResolvers<false>();
    await socket.send(sentence, { hostname, port, transport: "udp" })
      .catch((error) => console.error(`${hostname}:${port}: ${error.message}`));
    const timer = setTimeout(silence.resolve, FIRST_WAIT_MS * 2 ** i, false);
    const isEchoed = await Promise.race([echo.promise, silence.promise]);
    clearTimeout(timer);
    if (isEchoed) return true;
  }
  return false;
}

/** The lines that the user types. */
async function* readLines(): AsyncGenerator<string> {
  let rest = "";
  const keyboard = Deno.stdin.readable.pipeThrough(new TextDecoderStream());
  for await (const text of keyboard) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop()!;
    if (rest.length > MAX_DATAGRAM) throw new Error("a line is too long");
    yield* lines;
  }
  if (rest) yield rest;
}

receiveEchoes();
console.error("Type sentences, and stop at the end:");
let lost = 0;
for await (const line of readLines()) {
  if (await request(new TextEncoder().encode(line))) {
    console.log(line);
    if (STOP_WORD.test(line)) break;
  } else {
    lost++;
    console.error(`no echo of a sentence after ${TRIES} tries`);
  }
}

// Step 1c.ii: close the socket.
socket.close();
Deno.exit(lost > 0 ? 1 : 0);
