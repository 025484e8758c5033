/**
 * `deno task test`: runs `deno test` and keeps it calm. A dot is a test that passed, a comma one that
 * was ignored. At the end it prints each failure whole, with the command that runs this test alone;
 * why tests were ignored; and the last line of `deno test`, whose exit code it keeps.
 *
 * Arguments go to `deno test`: `deno task test tests/lab_test.ts`, `deno task test --filter stop`.
 * With `--reporter=pretty` it prints a line a test, as `deno test` does.
 *
 * However the tests end, Ctrl-C included, nothing of them is left. Their temporary files lie in one
 * folder, which goes. On Linux their network namespaces have the name of the run in theirs, and
 * their processes have it in the environment: there they are found, and ended.
 *
 * @module
 */

import { stripVTControlCharacters } from "node:util"; // `deno test` colours also what is piped

const ROW = 100; // dots
const GRACE_MS = 1_000; // for processes that are just ending
const SUM = /^(ok|FAILED) \| \d+ passed/; // the last line of `deno test`

/** Runs the tests, and returns the exit code. */
async function run(args: string[]): Promise<number> {
  const name = `echo-test-${crypto.randomUUID().slice(0, 8)}`;
  const folder = await Deno.makeTempDir({ prefix: `${name}-` });
  const seed = Deno.env.get("SEED") ?? `${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  // Tests wait more than they compute: with as many at once as there are cores, half of them idle.
  const jobs = Deno.env.get("DENO_JOBS") ?? `${2 * navigator.hardwareConcurrency}`;
  const env = {
    ...{ ECHO_TEST_RUN: name, SEED: seed, DENO_JOBS: jobs },
    ...{ TMPDIR: folder, TMP: folder, TEMP: folder },
  };
  try {
    if (args.length === 0 && !await haveSameDefaults(env)) return 1;
    const loud = args.some((arg) => arg.startsWith("--reporter"));
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "test",
        "--allow-all",
        "--parallel",
        ...args,
        ...(args.some(isPath) ? [] : ["tests/"]),
      ],
      env,
      stdin: "null",
      stdout: loud ? "inherit" : "piped",
      stderr: loud ? "inherit" : "piped",
    }).spawn();
    using _ = forwardSignals(child);
    if (!loud) await Promise.all([showResults(child.stdout, seed), showErrors(child.stderr)]);
    return (await child.status).code;
  } finally {
    await cleanUp(name);
    await Deno.remove(folder, { recursive: true }).catch((error) => console.error(error.message));
  }
}

/** Where the defaults differ, the other tests would wait for what never comes, and not say why. */
async function haveSameDefaults(env: Record<string, string>): Promise<boolean> {
  const args = ["test", "--allow-all", "--quiet", "tests/defaults_test.ts"];
  const { success, stdout } = await new Deno.Command(Deno.execPath(), { args, env }).output();
  if (success) return true;
  print(new TextDecoder().decode(stdout).trim());
  console.log("No other test was run.");
  return false;
}

/** Whether an argument is a file or a folder, and not an option or its value. */
function isPath(arg: string): boolean {
  try {
    return !arg.startsWith("-") && Deno.statSync(arg) !== undefined;
  } catch {
    return false;
  }
}

/** A signal ends the tests first; the rest happens when they have ended. */
function forwardSignals(child: Deno.ChildProcess): Disposable {
  const signals: Deno.Signal[] = ["SIGINT"];
  if (Deno.build.os !== "windows") signals.push("SIGTERM", "SIGHUP");
  function forward(): void {
    try {
      child.kill("SIGTERM");
    } catch {
      // It has ended: Ctrl-C reaches it, too.
    }
  }
  for (const signal of signals) Deno.addSignalListener(signal, forward);
  return {
    [Symbol.dispose]: () => signals.forEach((signal) => Deno.removeSignalListener(signal, forward)),
  };
}

// ---- What it shows ----

/** Shows dots while tests pass, and at the end what there is to know. */
async function showResults(stdout: ReadableStream<Uint8Array>, seed: string): Promise<void> {
  const dots = new Dots();
  const ignored = new Map<string, number>(); // by reason
  const printed: string[] = []; // by the tests themselves
  const failed: string[] = []; // the command that runs it alone
  const report: string[] = []; // ERRORS, FAILURES
  let sum = "deno test ended without a sum";

  for await (const line of linesOf(stdout)) {
    const plain = stripVTControlCharacters(line);
    // Of a step, the name has another " ... " in it: a step counts for its test.
    const [, file, name, outcome] = /^(\S+_test\.ts) => ((?:(?! \.\.\. ).)+) \.\.\. (.+) \(.*\)$/
      .exec(plain) ?? [];
    if (SUM.test(plain)) sum = line;
    else if (report.length > 0 || plain === " ERRORS ") report.push(line);
    else if (outcome === "ok") dots.add(".");
    else if (outcome === "ignored") {
      const [, reason = `without a reason: ${name}`] = /\(ignored: (.*)\)$/.exec(name!) ?? [];
      ignored.set(reason, (ignored.get(reason) ?? 0) + 1);
      dots.add(",");
    } else if (/^(FAILED|cancelled)/.test(outcome ?? "")) {
      dots.fail(`${outcome} ${file}: ${name}`);
      failed.push(commandFor(file!, name!, seed));
    } else if (plain.startsWith("Uncaught error ")) dots.fail(plain);
    else if (plain && !outcome && !/-- output( end)? --|-- post-test output/.test(plain)) {
      printed.push(plain);
    }
  }
  dots.end();

  if (report.length > 0 && printed.length > 0) {
    console.log(["", "What tests printed:", ...printed].join("\n"));
  }
  for (const line of report.slice(0, -1)) print(line);
  if (failed.length > 0) console.log(["Each alone:", ...failed, ""].join("\n"));
  for (const [reason, count] of ignored) console.log(`${count} ignored: ${reason}`);
  print(sum);
}

/** The command that runs a test alone. */
function commandFor(file: string, name: string, seed: string): string {
  const filter = name.replaceAll("'", "'\\''");
  return `SEED=${seed} deno task test ${file.replace("./", "")} --filter '${filter}'`;
}

/** A row of dots, one a test. */
class Dots {
  #column = 0;

  add(dot: string): void {
    Deno.stdout.writeSync(new TextEncoder().encode(dot));
    if (++this.#column === ROW) this.end();
  }

  /** What fails is named at once. */
  fail(what: string): void {
    this.end();
    console.log(what);
  }

  end(): void {
    if (this.#column > 0) console.log();
    this.#column = 0;
  }
}

/** Shows what `deno test` says on stderr, but not that it checks a file, nor again that one failed. */
async function showErrors(stderr: ReadableStream<Uint8Array>): Promise<void> {
  let isSaid = false;
  for await (const line of linesOf(stderr)) {
    const plain = stripVTControlCharacters(line);
    isSaid ||= plain === "error: Test failed";
    if (!isSaid && !plain.startsWith("Check ")) console.error(line);
  }
}

/** Prints a line, with its colours where they are wanted. */
function print(line: string): void {
  const colored = Deno.stdout.isTerminal() && !Deno.noColor;
  console.log(colored ? line : stripVTControlCharacters(line));
}

/** The lines of a stream. */
async function* linesOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream() as TextDecoding)) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest) yield rest;
}

type TextDecoding = ReadableWritablePair<string, Uint8Array>;

// ---- What tests leave behind ----

/** Ends the processes and deletes the network namespaces that a run left. */
export async function cleanUp(run: string): Promise<void> {
  await endProcesses(run);
  deleteNetworks(run);
}

/** Ends the processes that a run left, and names them. */
async function endProcesses(run: string): Promise<void> {
  if (Deno.build.os !== "linux") return;
  for (const start = performance.now(); performance.now() - start < GRACE_MS;) {
    if (processesOf(run).length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  for (const [pid, command] of processesOf(run)) {
    console.log(`left behind, and ended: ${command}`);
    try {
      Deno.kill(pid, "SIGKILL");
    } catch {
      // It has ended.
    }
  }
}

/** The processes with the name of a run in their environment. */
function processesOf(run: string): [pid: number, command: string][] {
  const found: [number, string][] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const environment = Deno.readTextFileSync(`/proc/${name}/environ`);
      if (!environment.split("\0").includes(`ECHO_TEST_RUN=${run}`)) continue;
      const command = Deno.readTextFileSync(`/proc/${name}/cmdline`).replaceAll("\0", " ");
      found.push([Number(name), command.slice(0, ROW)]);
    } catch {
      // It has ended, or it is somebody else's.
    }
  }
  return found;
}

/** Deletes the network namespaces that a run left. */
function deleteNetworks(run: string): void {
  try {
    for (const { name } of Deno.readDirSync("/run/netns")) {
      if (!name.startsWith(run)) continue;
      new Deno.Command("ip", { args: ["netns", "delete", name] }).outputSync();
    }
  } catch {
    // This system has none.
  }
}

if (import.meta.main) Deno.exit(await run(Deno.args));
