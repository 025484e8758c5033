/**
 * What README.md and docs/lab/README.md show and say: transcripts, options, places in the code, events,
 * permissions, and the configuration of nginx are all tried. So are the small programs of the lab: in
 * every pair, and in every way that the lab says they break.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  codeIn,
  isTyped,
  readSections,
  replay,
  rowsOf,
  sectionOf,
  transcriptsOf,
} from "./_docs.ts";
import { makeNetwork } from "./_faults.ts";
import {
  decode,
  encode,
  EventLog,
  exchange,
  fileUrl,
  freePort,
  hasIpv6,
  hasTool,
  LIMIT,
  Program,
  PTY,
  readExactly,
  readToEnd,
  resetClient,
  runScript,
  SCRIPTS,
  spawn,
  UdpPeer,
  unless,
  writeAll,
} from "./_helpers.ts";
import { serve as serveTcp } from "../tcp_server.ts";
import { serve as serveUdp } from "../udp_server.ts";

const DOCS = ["README.md", "docs/lab/README.md"];
const LAN_ADDRESS = "192.168.1.20"; // of the machine on which a server is, in README.md
const HAS_BASH = hasTool("bash", "--version");
const HAS_PTY = hasTool(PTY[0]!, "-c", "import pty");
const HAS_NAMESPACES = hasTool("unshare", "-n", "ip", "link");
const STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"; // of Debian
const HAS_NGINX = hasTool("nginx", "-v") && exists(STREAM_MODULE);

const sources = new Map(SCRIPTS.map((name) => [name, Deno.readTextFileSync(fileUrl(name))]));
/** What each script prints for `--help`. */
const helps = new Map(
  await Promise.all(
    SCRIPTS.map(async (name) => [name, (await runScript(name, ["--help"])).stdout] as const),
  ),
);

function exists(path: string | URL): boolean {
  try {
    return Deno.statSync(path) !== undefined;
  } catch {
    return false;
  }
}

// ---- Transcripts ----

for (const path of DOCS) {
  for (const section of readSections(path)) {
    const transcripts = transcriptsOf(section);
    if (transcripts.length === 0) continue;
    const shows = (text: string): boolean =>
      transcripts.some(({ lines }) => lines.some((line) => line.includes(text)));
    const elsewhere = shows(LAN_ADDRESS);
    const rooted = elsewhere || shows("$ sudo ");
    const ready = HAS_BASH && (HAS_PTY || !isTyped(section)) && (HAS_NAMESPACES || !rooted);
    const missing = `needs bash, python3 for a terminal${rooted ? ", ip, and root" : ""}`;
    Deno.test({
      ...unless(!ready && missing, `${path}, transcripts of "${section.title}"`),
      ...LIMIT,
      async fn(): Promise<void> {
        if (!elsewhere) return await replay(section);
        using network = makeNetwork();
        network.run(`ip address add ${LAN_ADDRESS}/24 dev lo`);
        await replay(section, network.via);
      },
    });
  }
}

// ---- Options ----

Deno.test("README.md, the options that matter: each script has those of its rows", () => {
  const rows = rowsOf(sectionOf("README.md", "The options that matter"));
  assert(rows.length > 5);
  const all = rows.flatMap(([options]) => codeIn(options!));
  assertEquals(all.length, new Set(all).size);
  for (const [options, of] of rows as [string, string][]) {
    for (const option of codeIn(options)) {
      const having = SCRIPTS.filter((script) => helps.get(script)!.includes(` ${option} `));
      const meant = SCRIPTS.filter((script) => isOf(script, of));
      if (options.includes("--wait")) assert(having.every((script) => meant.includes(script)));
      else assertEquals(having, meant, option);
    }
  }
});

/** Whether a script is one of those that a cell names: all, servers, clients, or one. */
function isOf(script: string, cell: string): boolean {
  return cell.startsWith("all") || cell.includes(kindOf(script)) ||
    codeIn(cell).some((name) => script.startsWith(name));
}

Deno.test("every option in the documentation exists", LIMIT, async () => {
  const others = ["docs/demo.ts", "docs/lab/grade.ts"].map((name) => runScript(name, ["--help"]));
  const all = [...helps.values(), ...(await Promise.all(others)).map(({ stdout }) => stdout)]
    .join("\n");
  const ofDeno = `deno run --help; deno install --help`
    .split("; ")
    .map((command) => command.split(" ").slice(1))
    .map((args) => new Deno.Command(Deno.execPath(), { args, env: { NO_COLOR: "1" } }).outputSync())
    .map(({ stdout }) => decode(stdout))
    .join("\n") + " --yes --add-port"; // of npx, and of a firewall
  for (const path of DOCS) {
    const text = Deno.readTextFileSync(fileUrl(path));
    for (const [, script, args] of text.matchAll(/ (\w+\.ts)((?: [^\n|<>&`]+)?)/g)) {
      for (const [option] of args!.matchAll(/(?<= )--?[a-z][\w-]*/g)) {
        const known = new RegExp(`(^| )${option}\\b`, "m").test(helps.get(script!) ?? option);
        assert(known, `${path}: ${script} ${option}`);
      }
    }
    for (const [option] of text.matchAll(/(?<![\w-])--[a-z][\w-]+/g)) {
      assert(new RegExp(`${option}\\b`).test(all + ofDeno), `${path}: ${option}`);
    }
  }
});

// ---- Places in the code ----

/** The targets of the links in a text that are files of the repo, with the text of each link. */
function linksIn(path: string): { text: string; target: string }[] {
  const links = Deno.readTextFileSync(fileUrl(path)).matchAll(/\[([^\]]+)\]\((?!https:)([^)]+)\)/g);
  return [...links].map(([, text, target]) => ({ text: text!, target: target! }));
}

/** Whether a script defines a function, class or method of that name. */
function defines(source: string, name: string): boolean {
  const head = `^ *(export )?(async )?(function\\*?|class) ${name}\\b`;
  const method = `^ +(static )?(async )?[*#]{0,2}${name}(<.*>)?\\(.*\\{$`;
  return new RegExp(`${head}|${method}`, "m").test(source);
}

for (const script of SCRIPTS) {
  const links = linksIn("docs/lab/README.md").filter(({ target }) => target === `../../${script}`);
  for (const name of new Set(links.flatMap(({ text }) => codeIn(text)))) {
    Deno.test(`docs/lab/README.md links to ${name} in ${script}: it is defined there`, () => {
      assert(defines(sources.get(script)!, name));
    });
  }
}

// ---- JSON ----

/** What the table says: the fields of each event of each script. */
function eventsInTable(): Map<string, Set<string>> {
  const events = new Map<string, Set<string>>();
  for (const [event, from, fields] of rowsOf(sectionOf("README.md", "JSON"))) {
    for (const script of SCRIPTS.filter((script) => isOf(script, from!))) {
      const kind = [script, ...codeIn(event!), ...(from!.includes("probing") ? ["probing"] : [])];
      const names = fields!.split("; ").flatMap((field) => codeIn(field).slice(0, 1));
      events.set(kind.join(" "), new Set(names));
    }
  }
  return events;
}

Deno.test("README.md, JSON: the table has every event, with every field", LIMIT, async () => {
  const seen = new Map<string, Set<string>>(); // by script and event
  function take(script: string, output: string): void {
    for (const line of output.trim().split("\n")) {
      const object = JSON.parse(line);
      const [time, event, ...fields] = Object.keys(object);
      assertEquals([time, event], ["time", "event"]);
      assertMatch(object.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      const kind = `${script} ${object.event}${"seq" in object ? " probing" : ""}`;
      seen.set(kind, new Set([...seen.get(kind) ?? [], ...fields]));
    }
  }
  /** Runs a script to its end. */
  async function run(script: string, args: string[]): Promise<void> {
    take(script, (await runScript(script, [...args, "--json"])).stdout);
  }
  for (const script of SCRIPTS) await run(script, ["--nonsense"]); // error
  for (const transport of ["tcp", "udp"]) {
    const [server, client] = [`${transport}_server.ts`, `${transport}_client.ts`];
    const lossy = transport === "udp" ? ["--drop", "0.5", "--seed", "4"] : [];
    await using running = spawn(server, ["--port", "0", "--json", ...lossy]);
    const ready = await running.nextLine();
    const args = ["--port", `${JSON.parse(ready).port}`, "--timeout", "5"];
    const long = ["x".repeat(2_000), "stop"];
    await run(client, [...args, ...(lossy.length > 0 ? ["--retries", "9"] : []), ...long]);
    await run(client, [...args, "--count", "9", "--interval", "0", "--timeout", "0.2"]);
    take(server, `${ready}\n${(await running.stop()).stdout}`);
  }
  // Warnings, and a loss.
  await using lossy = spawn("udp_server.ts", ["--port", "0", "--json", "--drop", "1"]);
  const begin = [await lossy.nextLine(), await lossy.nextLine()]; // the first tells its seed
  take("udp_server.ts", [...begin, (await lossy.stop()).stdout].join("\n"));
  await run("tcp_client.ts", ["--port", `${freePort()}`, "--wait", "0.1", "hello"]); // that it waits
  await using peer = new UdpPeer((datagram, _, self) => {
    if (decode(datagram.bytes) === "one") return self.send("two", datagram.from).then(echo);
    function echo(): Promise<void> {
      return self.send("one", datagram.from);
    }
  });
  const args = ["--port", `${peer.addr.port}`, "--retries", "0", "--timeout", "0.3"];
  await run("udp_client.ts", [...args, "one", "three"]); // of the wrong answer, and of the loss
  await using server = spawn("tcp_server.ts", ["--port", "0", "--json"]);
  const listening = await server.nextLine();
  using conn = await Deno.connect({ port: JSON.parse(listening).port });
  const open = await server.nextLine();
  server.kill("SIGTERM");
  const waiting = await server.nextLine(); // half a second later
  conn.close();
  take("tcp_server.ts", [listening, open, waiting, decode(await server.stdout.rest())].join("\n"));

  const sorted = (map: Map<string, Set<string>>): unknown =>
    [...map].map(([kind, fields]) => [kind, [...fields].sort()]).sort();
  assertEquals(sorted(seen), sorted(eventsInTable()));
});

/** `servers` or `clients`. */
function kindOf(script: string): string {
  return script.includes("server") ? "servers" : "clients";
}

// ---- Permissions ----

Deno.test({
  ...unless(
    !HAS_PTY && "needs python3 for a terminal",
    "README.md, permissions: Deno asks a person",
  ),
  ...LIMIT,
  async fn(): Promise<void> {
    for (const script of SCRIPTS) {
      await using asking = spawn(script, [], { allowNet: false, via: PTY });
      assertMatch(await asking.stdout.until("[y/n/A]"), /Deno requests .*net access to "127/s);
    }
  },
});

for (const [host, tcp, udpServer, udpClient] of rowsOf(sectionOf("README.md", "Permissions"))) {
  const hostname = codeIn(host!)[0]!;
  const hosts = new Map([
    ["tcp_server.ts", codeIn(tcp!)[0]],
    ["tcp_client.ts", codeIn(tcp!)[0]],
    ["udp_server.ts", codeIn(udpServer!)[0]],
    ["udp_client.ts", codeIn(udpClient!)[0]],
  ]);
  const here = hostname === "::1" ? hasIpv6() : /^(127|0)\.|^localhost$/.test(hostname);

  Deno.test(`README.md, permissions for ${hostname}: a script asks for them`, LIMIT, async () => {
    for (const [script, allowNet] of hosts) {
      if (!allowNet) continue;
      const { code, stderr } = await runScript(script, ["--host", hostname], { allowNet: false });
      assertEquals(code, 1);
      const asked = /no permission .*add --allow-net=(.*)\n$/.exec(stderr)?.[1];
      // What a name stands for, and who will ask on a wildcard, it does not know yet.
      const open = /^(localhost|0\.0\.0\.0)$/.test(hostname) && script.startsWith("udp");
      assertEquals(open ? allowNet.split(",")[0] : allowNet, asked, script);
    }
  });

  if (!here) continue;
  Deno.test(`README.md, permissions for ${hostname}: they are enough`, LIMIT, async () => {
    for (const transport of ["tcp", "udp"]) {
      const [server, client] = [`${transport}_server.ts`, `${transport}_client.ts`];
      const free = `${freePort()}`;
      const allow = (script: string): string =>
        (hosts.get(script) ?? hosts.get("tcp_client.ts")!)
          .replaceAll("12000", free).replace("192.168.0.0/16", "127.0.0.0/8");
      const args = ["--port", free, "--host"];
      await using running = spawn(server, [...args, hostname], { allowNet: allow(server) });
      await running.port();
      const wildcard = hostname === "0.0.0.0"; // a client asks for one of its addresses
      const options = wildcard ? {} : { allowNet: allow(client) };
      const to = [...args, wildcard ? "127.0.0.1" : hostname];
      const { code, stdout, stderr } = await runScript(client, [...to, "Hello", "stop"], options);
      assertEquals([code, stdout, stderr], [0, "Hello\nstop\n", ""]);
    }
  });
}

// ---- The rest of it ----

Deno.test("README.md: at most 300 lines; its commands stand where CI looks for them", () => {
  const text = Deno.readTextFileSync(fileUrl("README.md"));
  assert(text.trimEnd().split("\n").length <= 300);
  for (const task of ["demo", "test"]) {
    assert(new RegExp(`^npx --yes deno@\\d+\\.\\d+\\.\\d+ task ${task}$`, "m").test(text));
  }
});

Deno.test("every link and every file that the documentation names is there", () => {
  for (const path of [...DOCS, "docs/measured.md"]) {
    for (const { target } of linksIn(path)) {
      const [file, anchor] = target.split("#");
      assert(exists(new URL(file!, fileUrl(path))), `${path}: ${target}`);
      if (!anchor) continue;
      const titles = readSections(relative(file!, path)).map(({ title }) => title.toLowerCase());
      const anchors = titles.map((title) => title.replace(/[^\w -]/g, "").replaceAll(" ", "-"));
      assert(anchors.includes(anchor), `${path}: ${target}`);
    }
  }
  for (const name of codeIn(sectionOf("README.md", "Layout").text)) {
    assert(name.startsWith("deno ") || exists(fileUrl(name)), name);
  }
});

/** A path in the repo, from a link in the file at `path`. */
function relative(target: string, path: string): string {
  return new URL(target, fileUrl(path)).href.slice(fileUrl("").href.length);
}

Deno.test({
  ...unless(
    !HAS_NGINX && "needs nginx and its stream module",
    "docs/nginx.conf: it spreads clients, and cuts off nothing",
  ),
  ...LIMIT,
  async fn(t): Promise<void> {
    const logs = [1, 2].map(() => ({
      tcp: new EventLog<{ event: string }>(),
      udp: new EventLog<{ event: string }>(),
    }));
    await using first = serveTcp({ port: 0, onEvent: logs[0]!.tcp.add });
    await using second = serveTcp({ port: 0, onEvent: logs[1]!.tcp.add });
    const [one, two] = [first.addr.port, second.addr.port];
    await using _third = serveUdp({ port: one, onEvent: logs[0]!.udp.add });
    await using _fourth = serveUdp({ port: two, onEvent: logs[1]!.udp.add });
    const port = `${freePort()}`;
    await using _balancer = await startNginx({
      "12000": port,
      "12001": `${one}`,
      "12002": `${two}`,
    });

    for (const [client, log] of [["tcp_client.ts", "tcp"], ["udp_client.ts", "udp"]] as const) {
      await t.step(client, async () => {
        for (const word of ["one", "two", "three", "four"]) {
          const { code, stdout } = await runScript(client, ["--port", port, word, "stop"]);
          assertEquals([code, stdout], [0, `${word}\nstop\n`]);
        }
        for (const events of logs) assertEquals(events[log].of("close").length, 2);
        // More than the usual buffers hold, and the end of the input well before the last echo.
        const stdin = log === "udp" ? "x".repeat(65_507) : "0123456789\n".repeat(200_000);
        const { code, stdout, stderr } = await runScript(client, ["--port", port], { stdin });
        assertEquals([code, stderr, stdout.length], [0, "", stdin.length]);
      });
    }
  },
});

/** Runs nginx with docs/nginx.conf, on other ports. */
async function startNginx(ports: Record<string, string>): Promise<AsyncDisposable> {
  const stream = (await Deno.readTextFile(fileUrl("docs/nginx.conf")))
    .replace(/\b120\d\d\b/g, (port) => ports[port]!);
  const directory = await Deno.makeTempDir();
  const config = `${directory}/nginx.conf`;
  const head = `load_module ${STREAM_MODULE};
    daemon off; master_process off; pid ${directory}/pid; error_log stderr notice;
    events {}`;
  await Deno.writeTextFile(config, `${head}\n${stream}\n`);
  const args = ["-e", "stderr", "-c", config];
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const program = new Program("nginx", new Deno.Command("nginx", { args, ...piped }).spawn());
  async function stop(): Promise<void> {
    await program[Symbol.asyncDispose]();
    await Deno.remove(directory, { recursive: true });
  }
  try {
    await program.stderr.until("event method"); // it listens by then
  } catch (error) {
    await stop();
    throw error;
  }
  return { [Symbol.asyncDispose]: stop };
}

// ---- The small programs of the lab ----

const TASKS = [1, 2, 3, 4];
const LANGUAGES = ["ts", "py"].filter((kind) => kind === "ts" || hasTool("python3", "--version"));
const SMALL = TASKS.flatMap((task) =>
  ["server", "client"].flatMap((side) => ["ts", "py"].map((kind) => `task${task}_${side}.${kind}`))
);

/** The lines of a small program. */
function linesOf(program: string): string[] {
  return Deno.readTextFileSync(fileUrl(`docs/lab/${program}`)).trimEnd().split("\n");
}

Deno.test("docs/lab: each small program has 10 to 30 lines, at most 80 columns, the steps in order", () => {
  for (const program of SMALL) {
    const lines = linesOf(program);
    assert(lines.length >= 10 && lines.length <= 30, `${program}: ${lines.length} lines`);
    for (const line of lines) assert(line.length <= 80, `${program}: ${line}`);
    const steps = [...lines.join("\n").matchAll(/Steps? (\S+?)(?: and (\d))?:/g)]
      .flatMap(([, step, second]) => second ? [step, second] : [step]);
    const all = program.includes("server")
      ? ["1", "2", "3", "4", "5", "6"]
      : ["1a", "1b", "1c", "1c.i", "1c.ii"];
    assertEquals(steps, all, program);
  }
});

/** The fences of the lab's page that begin with these words. */
function fencesOf(...info: string[]): string[][] {
  return readSections("docs/lab/README.md")
    .flatMap(({ fences }) => fences)
    .filter((fence) => info.every((word, i) => fence.info[i] === word))
    .map(({ lines }) => lines);
}

Deno.test("docs/lab/README.md shows the programs of task 1 as they are", () => {
  for (const program of SMALL.filter((name) => name.startsWith("task1"))) {
    assertEquals(fencesOf(program.slice(-2), program), [linesOf(program)]);
  }
});

/** Does to `lines` what a diff says, in which `@@` stands for lines that stay. */
function patch(lines: string[], diff: string[]): string[] {
  const rest = lines.slice();
  const patched: string[] = [];
  const hunks: string[][] = [[]];
  for (const line of diff) {
    if (line === "@@") hunks.push([]);
    else hunks.at(-1)!.push(line);
  }
  for (const [i, hunk] of hunks.entries()) {
    const before = hunk.filter((line) => !line.startsWith("+")).map((line) => line.slice(1));
    const at = rest.findIndex((_, start) => before.every((line, j) => rest[start + j] === line));
    assert(i === 0 ? at === 0 : at >= 0, `not found: ${before.join("\n")}`);
    patched.push(...rest.splice(0, at));
    patched.push(...hunk.filter((line) => !line.startsWith("-")).map((line) => line.slice(1)));
    rest.splice(0, before.length);
  }
  return [...patched, ...rest];
}

Deno.test("docs/lab/README.md shows what changes from task to task: applied, it gives the next", () => {
  for (const before of SMALL.filter((name) => !name.startsWith("task4"))) {
    const after = before.replace(/\d/, (task) => `${Number(task) + 1}`);
    const diffs = fencesOf("diff", before, after);
    assertEquals(diffs.length, 1, `${before}, ${after}`);
    assertEquals(patch(linesOf(before), diffs[0]!), linesOf(after));
  }
});

/** Starts a small program on a port. */
function startSmall(program: string, port: number): Program {
  const path = fileUrl(`docs/lab/${program}`).pathname;
  const [command, ...flags] = program.endsWith(".py")
    ? ["python3", "-u"]
    : [Deno.execPath(), "run", "--allow-net"];
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const args = [...flags, path, `${port}`];
  const env = { NO_COLOR: "1" };
  return new Program(program, new Deno.Command(command!, { args, env, ...piped }).spawn());
}

/** A server, small or finished, that is ready. */
type Running = { program: Program; port: number } & AsyncDisposable;

/** Starts a small server, or a finished one. */
async function startServer(
  name: string,
  { args = [] as string[], port = freePort() } = {},
): Promise<Running> {
  const isSmall = name.startsWith("task");
  const program = isSmall ? startSmall(name, port) : spawn(name, ["--port", `${port}`, ...args]);
  try {
    assertMatch(await program.nextLine(), new RegExp(`^(listening|ready) on .*\\b${port}$`));
  } catch (error) {
    const { stderr } = await program.stop("SIGKILL");
    throw new Error(`${name}: ${stderr}`, { cause: error });
  }
  return { program, port, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
}

/** The next sentence that a server prints, small or finished. */
async function nextReceived({ program }: Running): Promise<string> {
  while (true) {
    const line = await program.nextLine();
    const sentence = /^(?:received: |\[127\.0\.0\.1:\d+\] )(.*?)(?: from \S+ \S+)?$/.exec(line)
      ?.[1];
    if (sentence !== undefined) return sentence;
  }
}

const FINISHED = ["tcp_server.ts", "tcp_client.ts", "udp_server.ts", "udp_client.ts"];
const SENTENCE = "Grüß Gott, 你好";

for (const task of TASKS) {
  const finished = FINISHED.filter((name) => name.startsWith(task === 4 ? "udp" : "tcp"));
  const servers = [...LANGUAGES.map((kind) => `task${task}_server.${kind}`), finished[0]!];
  const clients = [...LANGUAGES.map((kind) => `task${task}_client.${kind}`), finished[1]!];
  for (const server of servers) {
    for (const client of clients) {
      if (FINISHED.includes(server) && FINISHED.includes(client)) continue;
      Deno.test(`docs/lab: ${server} serves ${client}`, LIMIT, async () => {
        const isSmall = client.startsWith("task");
        const noEcho = task === 1 ? ["--no-echo"] : [];
        await using running = await startServer(server, { args: noEcho });
        const { port } = running;
        const once = task < 3 ? [SENTENCE] : []; // the server closes after it
        await using talking = isSmall
          ? startSmall(client, port)
          : spawn(client, ["--port", `${port}`, ...noEcho, ...once]);
        if (isSmall) assertMatch(await talking.nextLine(), /^Type /);
        for (const sentence of task < 3 ? [SENTENCE] : [SENTENCE, "", "do not stop", "stop"]) {
          if (isSmall || task > 2) await talking.write(`${sentence}\n`);
          if (task > 1) {
            assertEquals(await talking.nextLine(), (isSmall ? "echo: " : "") + sentence);
          }
          assertEquals(await nextReceived(running), sentence);
        }
        // Its input is still open, if it is not given as an argument.
        const { code, stdout, stderr } = await talking.finish();
        assertEquals([code, stdout, stderr], [0, "", ""]);
        if (FINISHED.includes(server)) assertEquals((await running.program.stop()).code, 0);
        else if (task < 3) assertEquals((await running.program.finish()).code, 0);
        else { // it goes on
          await using again = spawn(finished[1]!, ["--port", `${port}`, "again"]);
          assertEquals((await again.finish()).stdout, "again\n");
        }
      });
    }
  }
}

/** A connection to a port on loopback. */
function connectTo(port: number): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname: "127.0.0.1", port });
}

/** Asserts that a program ended by an error, which it shows. */
async function assertEndsWith(program: Program, error: RegExp): Promise<void> {
  const { code, stderr } = await program.finish();
  assertEquals(code, 1);
  assertMatch(stderr, error);
}

for (const kind of LANGUAGES) {
  const isPython = kind === "py";
  const breaks = (what: string, fn: () => Promise<void>): void =>
    Deno.test(`docs/lab, break it, ${kind}: ${what}`, LIMIT, fn);

  breaks("the client first", async () => {
    await using client = startSmall(`task1_client.${kind}`, freePort());
    await assertEndsWith(client, /^(ConnectionRefusedError|error: .*ConnectionRefused): /m);
  });

  breaks("start the server again: only Python's first one cannot", async () => {
    for (const task of [1, 2]) {
      const port = freePort();
      for (const turn of [1, 2]) {
        if (turn === 2 && task === 1 && isPython) {
          await using again = startSmall("task1_server.py", port);
          await assertEndsWith(again, /^OSError: \[Errno \d+\] Address already in use$/m);
          if (Deno.build.os !== "linux") break;
          // The old one must have had the option, too.
          const args = ["--port", `${port}`];
          const { code, stderr } = await runScript("tcp_server.ts", args);
          assertEquals(code, 1);
          assertMatch(stderr, /: address already in use$/m);
          break;
        }
        await using server = await startServer(`task${task}_server.${kind}`, { port });
        using conn = await connectTo(port);
        await writeAll(conn, "Hello\n");
        assertEquals(decode(await readToEnd(conn)), task === 1 ? "" : "Hello\n");
        conn.close(); // the server was first
        assertEquals((await server.program.finish()).code, 0);
      }
    }
  });

  breaks("a sentence longer than the buffer", async () => {
    await using server = await startServer(`task2_server.${kind}`);
    using conn = await connectTo(server.port);
    await writeAll(conn, "x".repeat(1100));
    assertEquals(await readExactly(conn, 1024), encode("x".repeat(1024)));
    // Deno sends a FIN before the reset.
    const end = await readToEnd(conn).catch((error) => error);
    assert(end instanceof Deno.errors.ConnectionReset || !isPython && end.length === 0);
  });

  breaks("a character in two reads", async () => {
    await using server = await startServer(`task2_server.${kind}`);
    using conn = await connectTo(server.port);
    await writeAll(conn, "x".repeat(1023) + "ü");
    if (isPython) {
      await assertEndsWith(server.program, /^UnicodeDecodeError: .* in position 1023: /m);
    } else assertEquals(await nextReceived(server), "x".repeat(1023) + "\uFFFD");
  });

  breaks("a sentence in two pieces, two in one piece", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    using conn = await connectTo(server.port);
    for (const piece of ["st", "op\n", "bye\nstop\n"]) {
      assertEquals(await exchange(conn, piece), piece); // it is open
      assertEquals(await nextReceived(server), piece.split("\n")[0]);
    }
    assertEquals(await exchange(conn, "stop\n"), "stop\n");
    assertEquals(await conn.read(new Uint8Array(1)), null);
  });

  breaks("a second client waits", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    const first = await connectTo(server.port);
    await exchange(first, "I was here first\n");
    using second = await connectTo(server.port);
    await writeAll(second, "Is anybody there?\n");
    await exchange(first, "I am still here\n");
    first.close();
    assertEquals(decode(await readExactly(second, 18)), "Is anybody there?\n");
    for (const sentence of ["I was here first", "I am still here", "Is anybody there?"]) {
      assertEquals(await nextReceived(server), sentence);
    }
  });

  breaks("one reset ends the server", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    await resetClient(server.port, encode("Hello\n"));
    await assertEndsWith(server.program, /^(ConnectionResetError|error: .*ConnectionReset): /m);
  });

  breaks("the server is killed: the client learns it when its user types", async () => {
    await using server = await startServer(`task3_server.${kind}`);
    await using client = startSmall(`task3_client.${kind}`, server.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("Are you there?\n");
    assertEquals(await client.nextLine(), "echo: Are you there?");
    using conn = await connectTo(server.port);
    await server.program.stop("SIGKILL");
    await client.write("Hello?\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "", ""]);
    // This one waited to be accepted, and is reset.
    await assertRejects(() => readToEnd(conn), Deno.errors.ConnectionReset);
  });

  breaks("the client first over UDP, a lost echo: it waits for ever", async () => {
    await using peer = new UdpPeer();
    await using client = startSmall(`task4_client.${kind}`, peer.addr.port);
    await client.write("Can you hear me?\n");
    const { bytes, from } = await peer.next();
    assertEquals(decode(bytes), "Can you hear me?");
    await client.write("Hello?\n");
    await using silent = new UdpPeer();
    const args = ["--port", `${silent.addr.port}`, "--timeout", "0.05", "Can you hear me?"];
    assertEquals((await runScript("udp_client.ts", args)).code, 1); // it tried again, and gave up
    assertEquals(await peer.arrived(), []); // neither the second one nor the first one again
    await peer.send("Can you hear me?", from);
    assertEquals(decode((await peer.next()).bytes), "Hello?");
  });

  breaks("a stranger's reply is believed", async () => {
    await using peer = new UdpPeer();
    await using stranger = new UdpPeer();
    await using client = startSmall(`task4_client.${kind}`, peer.addr.port);
    assertMatch(await client.nextLine(), /^Type /);
    await client.write("What is my balance?\n");
    await stranger.send("You are rich!", (await peer.next()).from);
    assertEquals(await client.nextLine(), "echo: You are rich!");
  });

  breaks("a datagram longer than the buffer, one that is no text", async () => {
    await using server = await startServer(`task4_server.${kind}`);
    await using peer = new UdpPeer();
    assertEquals((await peer.ask("x".repeat(1100), server.port)).length, 1024);
    assertEquals(decode(await peer.ask("Hello", server.port)), "Hello");
    const noText = new Uint8Array([0xff]);
    if (isPython) {
      await peer.send(noText, server.port);
      await assertEndsWith(server.program, /^UnicodeDecodeError: .* in position 0: /m);
    } else assertEquals(await peer.ask(noText, server.port), noText);
  });

  breaks("the server is killed, over UDP: a new one just goes on", async () => {
    await using server = await startServer(`task4_server.${kind}`);
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("one", server.port)), "one");
    await server.program.stop("SIGKILL");
    await peer.send("two", server.port);
    assertEquals(await peer.arrived(), []);
    await using _again = await startServer(`task4_server.${kind}`, { port: server.port });
    assertEquals(decode(await peer.ask("three", server.port)), "three");
  });
}

Deno.test(
  "docs/lab: what breaks the small programs does not break the finished ones",
  LIMIT,
  async (t) => {
    await t.step("tcp_server.ts", async () => {
      await using server = await startServer("tcp_server.ts");
      await resetClient(server.port, encode("Hello\n"));
      using silent = await connectTo(server.port);
      using conn = await connectTo(server.port);
      const long = "x".repeat(1023) + "ü".repeat(100) + "\n";
      assertEquals(await exchange(conn, long), long);
      assertEquals(await exchange(conn, "st"), "st");
      assertEquals(await exchange(conn, "op\n"), "op\n");
      assertEquals(await conn.read(new Uint8Array(1)), null);
      assertEquals(await exchange(silent, "bye\nstop\n"), "bye\nstop\n");
      assertEquals(await silent.read(new Uint8Array(1)), null);
      for (const sentence of ["Hello", long.trim(), "stop", "bye", "stop"]) {
        assertEquals((await nextReceived(server)).slice(0, 900), sentence.slice(0, 900));
      }
    });

    await t.step("udp_server.ts", async () => {
      await using server = await startServer("udp_server.ts");
      await using peer = new UdpPeer();
      for (const data of [encode("x".repeat(1100)), new Uint8Array([0xff])]) {
        assertEquals(await peer.ask(data, server.port), data);
      }
    });

    await t.step("udp_client.ts", async () => {
      await using stranger = new UdpPeer();
      await using peer = new UdpPeer(async ({ from }, count, self) => {
        await stranger.send("You are rich!", from);
        if (count > 1) await self.send("What is my balance?", from); // the first echo is lost
      });
      const args = ["--port", `${peer.addr.port}`, "--timeout", "0.05", "What is my balance?"];
      const { code, stdout } = await runScript("udp_client.ts", args);
      assertEquals([code, stdout], [0, "What is my balance?\n"]);
    });
  },
);

Deno.test(
  "docs/lab: a write to a peer that is gone succeeds once, in Deno as in Python",
  LIMIT,
  async () => {
    await using server = await startServer("task3_server.ts");
    using conn = await connectTo(server.port);
    await exchange(conn, "Are you there?\n");
    await server.program.stop("SIGKILL");
    assertEquals(await conn.write(encode("Hello?\n")), 7);
    assertEquals(await conn.read(new Uint8Array(10)), null);
    await assertRejects(() => conn.write(encode("Hello?\n")), Deno.errors.BrokenPipe);
  },
);
