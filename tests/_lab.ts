/**
 * Runs the programs of the lab's page, docs/lab/*, or programs that a diff of that page makes of them.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { python } from "./_docs.ts";
import { fileUrl, freePort, Program } from "./_helpers.ts";

export const HAS_PYTHON = python() !== "";
export const LANGUAGES = ["ts", "py"];

/** The command that runs a program: of docs/lab by its name, or another by its path. */
export function commandOf(program: string, ...args: string[]): string[] {
  const path = program.includes("/") ? program : fileUrl(`docs/lab/${program}`).pathname;
  return program.endsWith(".py")
    ? [python(), "-u", "-S", path, ...args]
    : [Deno.execPath(), "run", "--no-config", "--unstable-net", "--allow-net", path, ...args];
}

/** Starts a command. */
export function run([command, ...args]: string[], killMs?: number): Program {
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const child = new Deno.Command(command!, { args, env: { NO_COLOR: "1" }, ...piped }).spawn();
  return new Program([command, ...args].join(" "), child, killMs);
}

/** Starts a client. */
export function startClient(program: string, port: number): Program {
  return run(commandOf(program, `${port}`));
}

/** A server that is ready. */
export type Running = { program: Program; port: number } & AsyncDisposable;

/** Starts a server, and waits until it is ready. */
export async function startServer(name: string, port: number = freePort()): Promise<Running> {
  const program = run(commandOf(name, `${port}`));
  try {
    assertMatch(await program.nextLine(), new RegExp(`^(listening|ready) on port ${port}$`));
  } catch (error) {
    const { stderr } = await program.stop("SIGKILL");
    await program[Symbol.asyncDispose]();
    throw new Error(`${name}: ${stderr}`, { cause: error });
  }
  return { program, port, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}

/** The next sentence that a server prints, small, whole or finished; other lines are passed over. */
export async function nextReceived({ program }: { program: Program }): Promise<string> {
  while (true) {
    const line = await program.nextLine();
    const sentence = /^(?:received: |\[127\.0\.0\.1:\d+\] )(.*?)(?: from \S+ \S+)?$/.exec(line)
      ?.[1];
    if (sentence !== undefined) return sentence;
  }
}

/** Asserts that a program ended by an error, which it shows. */
export async function assertEndsWith(program: Program, error: RegExp): Promise<void> {
  const { code, stdout, stderr } = await program.finish();
  assertEquals(code, 1, `it printed ${JSON.stringify(stdout + stderr)}`);
  assertMatch(stderr, error);
}

/** A connection to a port on loopback. */
export function connectTo(port: number): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname: "127.0.0.1", port });
}

/** The lines of a program of docs/lab. */
export function linesOf(program: string): string[] {
  return Deno.readTextFileSync(fileUrl(`docs/lab/${program}`)).trimEnd().split("\n");
}

/**
 * Does to `lines` what a diff of the page says, in which `@@` stands for lines that stay.
 *
 * @throws Error where the diff does not fit
 */
export function patch(lines: string[], diff: string[]): string[] {
  const rest = lines.slice();
  const patched: string[] = [];
  const hunks: string[][] = [[]];
  for (const line of diff) {
    if (line === "@@") hunks.push([]);
    else hunks.at(-1)!.push(line);
  }
  for (const hunk of hunks) {
    const before = hunk.filter((line) => !line.startsWith("+")).map((line) => line.slice(1));
    const at = rest.findIndex((_, start) => before.every((line, j) => rest[start + j] === line));
    if (at < 0 || before.length === 0) throw new Error(`does not fit: ${hunk.join("\n")}`);
    patched.push(...rest.splice(0, at));
    patched.push(...hunk.filter((line) => !line.startsWith("-")).map((line) => line.slice(1)));
    rest.splice(0, before.length);
  }
  return [...patched, ...rest];
}
