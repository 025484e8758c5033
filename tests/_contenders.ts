/**
 * The servers that `bench.ts` compares: the loop everybody would write, ours, those of other
 * runtimes and languages, and the tools of every system.
 *
 * @module
 */

import { fileUrl, hasTool } from "./_helpers.ts";

/** What is written for a run, and its output; whoever runs it removes this. */
export const temp: string = Deno.makeTempDirSync({ prefix: "echo-bench-" });

export type Transport = "tcp" | "udp";

/** A server to measure. */
export type Contender = {
  name: string;
  command: (port: number) => string[];
  tool?: string; // what must be installed
  output?: "file" | "pipe"; // where it prints, and its sentences are counted; else it is discarded
  floor?: number; // the least ratio to the bare loops
  isBefore?: boolean; // the edition before, of the contender in front of it
};

/** The loop everybody would write; with TCP_NODELAY, as ours. Arguments: port, buffer size. */
const BARE_TCP = `
const [port, size] = Deno.args.map(Number);
for await (const conn of Deno.listen({ hostname: "127.0.0.1", port })) echo(conn);

async function echo(conn) {
  conn.setNoDelay();
  const buffer = new Uint8Array(size);
  for (let n; (n = await conn.read(buffer)) !== null;) await conn.write(buffer.subarray(0, n));
  conn.close();
}`;

/** The same, and it prints: what that costs at least. Arguments: port, buffer size. */
const BARE_PRINTING_TCP = `
const [port, size] = Deno.args.map(Number);
const [encoder, decoder] = [new TextEncoder(), new TextDecoder()];
let lines = "";
for await (const conn of Deno.listen({ hostname: "127.0.0.1", port })) echo(conn);

async function echo(conn) {
  conn.setNoDelay();
  const peer = conn.remoteAddr.hostname + ":" + conn.remoteAddr.port;
  const buffer = new Uint8Array(size);
  for (let n; (n = await conn.read(buffer)) !== null;) {
    if (lines === "") setTimeout(print, 10);
    lines += "[" + peer + "] " + decoder.decode(buffer.subarray(0, n));
    await conn.write(buffer.subarray(0, n));
  }
  conn.close();
}

async function print() {
  const bytes = encoder.encode(lines);
  lines = "";
  for (let at = 0; at < bytes.length;) at += await Deno.stdout.write(bytes.subarray(at));
}`;

const BARE_UDP = `
const [port] = Deno.args.map(Number);
const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });
const buffer = new Uint8Array(65_535);
while (true) {
  const [datagram, peer] = await socket.receive(buffer);
  await socket.send(datagram, peer);
}`;

/** The example of Deno's documentation. */
const PIPE_TCP = `
const [port] = Deno.args.map(Number);
for await (const conn of Deno.listen({ hostname: "127.0.0.1", port })) {
  conn.setNoDelay();
  conn.readable.pipeTo(conn.writable);
}`;

const NODE_NET = `
require("node:net")
  .createServer({ noDelay: true }, (socket) => socket.on("data", (data) => socket.write(data)))
  .listen(Number(process.argv[2]), "127.0.0.1");`;

const NODE_DGRAM = `
const socket = require("node:dgram").createSocket("udp4");
socket.on("message", (datagram, peer) => socket.send(datagram, peer.port, peer.address));
socket.bind(Number(process.argv[2]), "127.0.0.1");`;

const GO_STREAM = `package main

import ("io"; "net"; "os")

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil { panic(err) }
	for {
		conn, err := listener.Accept()
		if err != nil { panic(err) }
		go func() { io.Copy(struct{ io.Writer }{conn}, conn); conn.Close() }() // no splice(2)
	}
}`;

const GO_PACKETS = `package main

import ("net"; "os")

func main() {
	socket, err := net.ListenPacket("udp", "127.0.0.1:"+os.Args[1])
	if err != nil { panic(err) }
	buffer := make([]byte, 65535)
	for {
		size, peer, err := socket.ReadFrom(buffer)
		if err != nil { panic(err) }
		socket.WriteTo(buffer[:size], peer)
	}
}`;

/** A server of ours. */
export function ours(
  transport: Transport,
  flags: string[] = [],
  { folder = fileUrl(".").href, net = [] as string[], ...more }:
    & { folder?: string; net?: string[] }
    & Partial<Contender> = {},
): Contender {
  const script = `${transport}_server.ts`;
  return {
    name: [script, ...flags, ...(more.output ? [`> ${more.output}`] : [])].join(" "),
    command: (port) => {
      const address = transport === "udp" ? "127.0.0.1" : `127.0.0.1:${port}`;
      const allow = net.length > 0 ? net : [`--allow-net=${address}`];
      return deno(`${folder}${script}`, ...allow)("--port", `${port}`, ...flags);
    },
    ...more,
  };
}

/** A server of ours that has to reach `floor`, and the same of the edition before. */
export function both(
  transport: Transport,
  flags: string[],
  more: { floor: number; output?: "file" | "pipe" },
): Contender[] {
  const now = ours(transport, flags, more);
  if (!BEFORE) return [now];
  const { floor: _, ...others } = more;
  const before = ours(transport, flags, { ...others, folder: BEFORE });
  return [now, { ...before, name: `${before.name}, the edition before`, isBefore: true }];
}

function deno(script: string, ...flags: string[]): (...args: string[]) => string[] {
  return (...args) => [Deno.execPath(), "run", "--unstable-net", ...flags, script, ...args];
}

/** The commit of the edition before. */
export const EDITION_BEFORE = "4c38b73";
/** A folder with its scripts; none where git does not have them. */
const BEFORE: string | undefined = takeOut(EDITION_BEFORE);

function takeOut(commit: string): string | undefined {
  const folder = `${temp}/before/`;
  Deno.mkdirSync(folder);
  for (const name of ["tcp_server.ts", "udp_server.ts", "deno.json"]) {
    const show = { args: ["show", `${commit}:${name}`], cwd: fileUrl(".") };
    const { success, stdout } = new Deno.Command("git", show).outputSync();
    if (!success) return;
    Deno.writeFileSync(`${folder}${name}`, stdout);
  }
  const { imports, unstable } = JSON.parse(Deno.readTextFileSync(`${folder}deno.json`));
  Deno.writeTextFileSync(`${folder}deno.json`, JSON.stringify({ imports, unstable }));
  return `file://${folder}`;
}

/** How a tool is asked for its version, if it is not by `--version`. */
export const VERSION_OF: Record<string, string> = { socat: "-V", go: "version" };

export function isInstalled({ tool }: Contender): boolean {
  return !tool || hasTool(tool, VERSION_OF[tool] ?? "--version");
}

function inDeno(name: string, source: string, ...args: string[]): Contender {
  const script = written(source, "js");
  const command = deno(script, "--allow-net=127.0.0.1");
  return { name, command: (port) => command(`${port}`, ...args) };
}

function inNode(name: string, source: string): Contender {
  const script = written(source, "cjs");
  return { name, command: (port) => ["node", script, `${port}`], tool: "node" };
}

/** The same program, run by Bun. */
function inBun(name: string, source: string): Contender {
  const script = written(source, "cjs");
  return { name, command: (port) => ["bun", script, `${port}`], tool: "bun" };
}

/** Compiled when it is first started. */
function inGo(name: string, source: string): Contender {
  const script = written(source, "go");
  const binary = script.replace(/\.go$/, "");
  function command(port: number): string[] {
    const build = { args: ["build", "-o", binary, script] };
    const { success, stderr } = new Deno.Command("go", build).outputSync();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
    return [binary, `${port}`];
  }
  return { name, command, tool: "go" };
}

/** A new file in the temporary directory. */
export function written(source: string, extension: string): string {
  const path = Deno.makeTempFileSync({ dir: temp, suffix: `.${extension}` });
  Deno.writeTextFileSync(path, source);
  return path;
}

/** What this machine, this load and no JavaScript between can do. */
export function epoll(transport: Transport): Contender {
  const script = new URL("_load.ts", import.meta.url).href;
  const command = [Deno.execPath(), "run", "--allow-ffi", script, transport];
  return { name: "epoll loop, by the load", command: (port) => [...command, `${port}`] };
}

export const BARE = inDeno("bare Deno loop", BARE_TCP, "65536");
/** The same once more: what two of the same make of the same rounds. */
export const BARE_AGAIN: Contender = { ...BARE, name: "bare Deno loop, once more" };
export const BARE_PRINTING = inDeno("bare Deno loop that prints", BARE_PRINTING_TCP, "65536");
export const BARE_16 = inDeno("bare Deno loop, 16 KiB buffer", BARE_TCP, "16384");
export const PIPE = inDeno("Deno `readable.pipeTo(writable)`", PIPE_TCP);
export const NODE = inNode("Node `net`", NODE_NET);
export const BUN = inBun("Bun, Node's `net`", NODE_NET);
export const GO = inGo("Go", GO_STREAM);
export const SOCAT: Contender = {
  name: "socat, a process a client",
  command: (
    port,
  ) => ["socat", `TCP-LISTEN:${port},bind=127.0.0.1,fork,nodelay,backlog=511`, "PIPE"],
  tool: "socat",
};
export const NCAT: Contender = {
  name: "ncat, `cat` a client",
  command: (port) => ["ncat", "-lkm", "1000", "-e", "/bin/cat", "127.0.0.1", `${port}`],
  tool: "ncat",
};
export const QUIET = ours("tcp", ["--quiet"]);
export const CROWDED = ours("tcp", ["--quiet", "--max-connections", "20000"]);
export const PRINTING = ours("tcp", [], { output: "file" });
export const BARE_UDP_LOOP = inDeno("bare Deno loop", BARE_UDP);
export const BARE_UDP_AGAIN: Contender = { ...BARE_UDP_LOOP, name: "bare Deno loop, once more" };
export const NODE_UDP = inNode("Node `dgram`", NODE_DGRAM);
export const BUN_UDP = inBun("Bun, Node's `dgram`", NODE_DGRAM);
export const GO_UDP = inGo("Go", GO_PACKETS);
