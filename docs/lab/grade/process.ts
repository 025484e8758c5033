/**
 * Whether a program waits for what never comes, as Linux on x86-64 shows it: each of its threads is
 * asleep in a call that does not end by itself. So a `no` need not wait for its whole time. Where
 * this cannot be seen, the whole time is waited.
 *
 * @module
 */

/** Programs whose time limits show in the call that waits: others may hide them in a socket option. */
const SHOWS_LIMITS = /^(python|perl|ruby|node|deno|bun|bash|dash|sh\n|script\n)/;
/** Threads of a runtime (Deno's, Java's): one that is idle begins nothing by itself. */
const OF_A_RUNTIME =
  /^(tokio-runtime-w|V8 |VM |G1 |GC |C[12] |Signal Disp|Common-Cl|Finalizer|Reference|Service|Monitor|Notif|Sweeper)/;
const SIGALRM = 1n << 13n; // a program that catches it may have set an alarm

/** The argument that limits a call that waits: in milliseconds, or a pointer that is null for none. */
type Limit = { ms: number } | { pointer: number } | "none";

/** Calls that wait, by their numbers on x86-64. */
const CALLS: Record<number, Limit> = {
  ...{ 0: "none", 43: "none", 45: "none", 47: "none" }, // read, accept, recvfrom, recvmsg
  ...{ 61: "none", 130: "none", 247: "none", 288: "none" }, // wait4, sigsuspend, waitid, accept4
  ...{ 7: { ms: 2 }, 232: { ms: 3 }, 281: { ms: 3 } }, // poll, epoll_wait, epoll_pwait
  ...{ 23: { pointer: 4 }, 202: { pointer: 3 } }, // select, futex
  ...{ 270: { pointer: 4 }, 271: { pointer: 2 } }, // pselect6, ppoll
};

/** What a command prints; nothing where it cannot be run. */
export async function capture(name: string, args: string[]): Promise<string> {
  try {
    const { stdout } = await new Deno.Command(name, { args, stdin: "null", stderr: "null" })
      .output();
    return new TextDecoder().decode(stdout);
  } catch {
    return "";
  }
}

/**
 * Whether a process and its children all sleep, and none of them wakes by itself within `ms`.
 * `mayHide`: this is about a time limit; then nobody is believed who may have a hidden one.
 */
export async function isStuck(pid: number, ms: number, mayHide = false): Promise<boolean> {
  const seen = new Set<string>();
  for (let pids = [`${pid}`]; pids.length > 0;) {
    const children: string[] = [];
    for (const each of pids) {
      seen.add(each);
      const files = await readFiles(each);
      const isHidden = mayHide && !SHOWS_LIMITS.test(files.get("comm") ?? "");
      if (isHidden || !sleepsFor(files, ms)) return false;
      for (const [name, text] of files) {
        if (name.endsWith("/children")) children.push(...text.trim().split(" "));
      }
    }
    pids = children.filter((child) => child !== "" && !seen.has(child));
  }
  return true;
}

/** What `/proc` has of a process and its threads, by file. */
async function readFiles(pid: string): Promise<Map<string, string>> {
  const look = 'cd /proc/$1 && grep -s "" comm status task/*/comm task/*/syscall task/*/children';
  const files = new Map<string, string>();
  for (const line of (await capture("sh", ["-c", look, "sh", pid])).split("\n")) {
    const [, name, text] = /^([\w/]+):(.*)$/.exec(line) ?? [];
    if (name !== undefined) files.set(name, `${files.get(name) ?? ""}${text}\n`);
  }
  return files;
}

/** Whether a process has only threads that sleep, for longer than `ms`. */
function sleepsFor(files: Map<string, string>, ms: number): boolean {
  const status = files.get("status") ?? "";
  const caught = /^SigCgt:\s*(\w+)$/m.exec(status)?.[1] ?? "ffff";
  if (BigInt(`0x${caught}`) & SIGALRM || !/^State:\s*S/m.test(status)) return false;
  const calls = [...files].filter(([name]) => name.endsWith("/syscall"));
  return calls.length > 0 && calls.every(([name, call]) => {
    const isOfRuntime = OF_A_RUNTIME.test(files.get(name.replace("syscall", "comm")) ?? "");
    return limitOf(call, isOfRuntime) > ms;
  });
}

/** How many milliseconds a call waits at most; 0 where that is not known. */
function limitOf(call: string, isOfRuntime: boolean): number {
  const [number, ...args] = call.trim().split(" ");
  const limit = Deno.build.arch === "x86_64" ? CALLS[Number(number)] : undefined;
  if (limit === undefined || args.length === 0) return 0;
  if (limit === "none") return Infinity;
  if ("pointer" in limit) return isOfRuntime || Number(args[limit.pointer]) === 0 ? Infinity : 0;
  const value = Number(BigInt.asIntN(32, BigInt(args[limit.ms]!)));
  return value < 0 ? Infinity : value;
}
