/**
 * What the tests of the two TCP scripts share.
 *
 * @module
 */

import { assertMatch } from "@std/assert";
import { serve, type ServeOptions, type ServerEvent } from "../tcp_server.ts";
import { type Bytes, EventLog, readToEnd, writeAll } from "./_helpers.ts";

/** A server in this process, on a free port, with the log of its events. */
export function start(options: ServeOptions = {}): AsyncDisposable & {
  port: number;
  to: string[]; // what leads the client to it
  log: EventLog<ServerEvent>;
  finished: Promise<void>;
  connect(): Promise<Deno.TcpConn>;
} {
  const log = new EventLog<ServerEvent>();
  const server = serve({ port: 0, onEvent: log.add, ...options });
  const { port } = server.addr;
  const to = ["--port", `${port}`];
  return { ...server, port, to, log, connect: () => Deno.connect({ port }) };
}

/** Calls `onRead` with each buffer that a server reads into, if it starts before this is disposed. */
export function watchReads(onRead: (buffer: Uint8Array) => void): Disposable {
  const { listen } = Deno;
  Deno.listen = ((options: Deno.TcpListenOptions) => {
    const listener = listen(options);
    const accept = listener.accept.bind(listener);
    listener.accept = async () => {
      const conn = await accept();
      const read = conn.read.bind(conn);
      conn.read = (buffer) => {
        onRead(buffer);
        return read(buffer);
      };
      return conn;
    };
    return listener;
  }) as typeof listen;
  return { [Symbol.dispose]: () => void (Deno.listen = listen) };
}

/** Time that passes: until a server that closes the silent has closed one. */
export async function aWhile(): Promise<void> {
  await using server = start({ idleSeconds: 0.5 });
  using conn = await server.connect();
  await readToEnd(conn);
}

/** Whether nobody listens there. */
export async function refuses(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ port })).close();
    return false;
  } catch (error) {
    const { ConnectionRefused, ConnectionReset } = Deno.errors; // reset: the port was just closing
    if (error instanceof ConnectionRefused || error instanceof ConnectionReset) return true;
    throw error;
  }
}

/** Sends `bytes`, half-closes, and returns all that comes back. */
export async function echoOf(conn: Deno.TcpConn, bytes: Bytes): Promise<Bytes> {
  const [echo] = await Promise.all([
    readToEnd(conn),
    writeAll(conn, bytes).then(() => conn.closeWrite()),
  ]);
  return echo;
}

/** One line of the client, without a stack trace. */
export function assertOneLine(stderr: string): void {
  assertMatch(stderr, /^tcp_client: [^\n]+\n$/);
}
