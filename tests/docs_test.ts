/**
 * What README.md and docs/lab/README.md show and say: transcripts, options, places in the code, events,
 * permissions, the fixture, and the configuration of nginx are all tried. So are the small programs
 * of the lab: in every pair, and in every way that the lab says they break.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  codeIn,
  isTyped,
  readSections,
  replay,
  rowsOf,
  sectionOf,
  transcriptsOf,
} from "./_docs.ts";
import {
  decode,
  EventLog,
  fileUrl,
  freePort,
  hasIpv6,
  hasTool,
  LIMIT,
  Program,
  PTY,
  runScript,
  SCRIPTS,
  spawn,
} from "./_helpers.ts";
import { serve as serveTcp } from "../tcp_server.ts";
import { serve as serveUdp } from "../udp_server.ts";

const DOCS = ["README.md", "docs/lab/README.md"];
const HAS_BASH = hasTool("bash", "--version");
const HAS_PTY = hasTool(PTY[0]!, "-c", "import pty");
const STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"; // of Debian
const HAS_NGINX = hasTool("nginx", "-v") && exists(STREAM_MODULE);

const sources = new Map(SCRIPTS.map((name) => [name, Deno.readTextFileSync(fileUrl(name))]));
/** What each script prints for `--help`. */
const helps = new Map(
  [...sources].map(([name, source]) => [name, /^const HELP = `(.*?)\n`;$/ms.exec(source)![1]!]),
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
    if (transcriptsOf(section).length === 0) continue;
    const ready = HAS_BASH && (HAS_PTY || !isTyped(section));
    const reason = ready ? "" : " (ignored: needs bash, and python3 for a terminal)";
    const name = `${path}, transcripts of "${section.title}"${reason}`;
    Deno.test({ name, ignore: !ready, ...LIMIT, fn: () => replay(section) });
  }
}

// ---- Options ----

Deno.test("the help texts that are quoted here are those of --help", LIMIT, async () => {
  for (const [script, help] of helps) {
    assertEquals((await runScript(script, ["--help"])).stdout, `${help}\n`);
  }
});

Deno.test("README.md quotes --help to the letter, the usage and options of each script", () => {
  for (const [script, help] of helps) {
    const [quoted] = sectionOf("README.md", script).fences.filter(({ info }) => info[0] === "text");
    const [usage, ...options] = quoted!.lines.filter((line) => line !== "");
    assertStringIncludes(help, `\n${usage}\n`);
    for (const option of options) assert(help.split("\n").includes(option), `${script}: ${option}`);
  }
});

Deno.test("every option in the documentation exists", () => {
  const all = [...helps.values()].join("\n");
  const ofDeno = `deno run --help; deno install --help`
    .split("; ")
    .map((command) => command.split(" ").slice(1))
    .map((args) => new Deno.Command(Deno.execPath(), { args, env: { NO_COLOR: "1" } }).outputSync())
    .map(({ stdout }) => decode(stdout))
    .join("\n") + " --yes"; // npx
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

/** A function, method or constant function of a script, with its body; deno fmt sets its end. */
function bodyOf(name: string, script: string): string {
  const head = `(?:export )?(?:async )?(?:function\\*? )?${name}\\((?:.*\\{)?`; // a call ends otherwise
  const found = new RegExp(`^( *)${head}\\n(?:.*\\n)*?\\1\\}`, "m").exec(sources.get(script)!);
  if (!found) throw new Error(`no function ${name} in ${script}`);
  return found[0];
}

Deno.test("README.md, the lab's table: each place exists, and makes the call", () => {
  const rows = readSections("README.md").flatMap(rowsOf).filter((row) =>
    /\.ts`$/.test(row[3] ?? "")
  );
  assert(rows.length > 15);
  for (const [step, , call, where] of rows as [string, string, string, string][]) {
    const places = codeIn(where);
    const script = places.pop()!;
    const bodies = places.map((name) => bodyOf(name, script));
    const calls = codeIn(call).map((code) => code.replace(/\(.*/, "("));
    for (const code of calls) assertStringIncludes(bodies[0]!, code, `${step}: ${where}`);
    // `write` in `converse`: the second one holds the first
    for (const outer of bodies.slice(1)) assertStringIncludes(outer, bodies[0]!.trim());
  }
});

/** The targets of the links in a text that are files of the repo, with the text of each link. */
function linksIn(path: string): { text: string; target: string }[] {
  const links = Deno.readTextFileSync(fileUrl(path)).matchAll(/\[([^\]]+)\]\((?!https:)([^)]+)\)/g);
  return [...links].map(([, text, target]) => ({ text: text!, target: target! }));
}

/** Whether a script defines a function, class or method of that name. */
function defines(source: string, name: string): boolean {
  return new RegExp(
    `^(export )?(async )?(function\\*?|class) ${name}\\b|^ +(async )?[*#]?${name}\\(.*\\{$`,
    "m",
  ).test(source);
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

/** The fields in a cell of the table: optional ones end with a question mark. */
function fieldsIn(cell: string): string[] {
  return cell.split("; ").map((field) => {
    const [name] = codeIn(field);
    return field.includes(", if ") ? `${name}?` : name!;
  });
}

Deno.test("README.md, JSON: the table has every event, with every field", LIMIT, async () => {
  const seen = new Map<string, Set<string>>(); // by script and event
  function take(script: string, output: string): void {
    for (const line of output.trim().split("\n")) {
      const { event, ...fields } = JSON.parse(line);
      const kind = `${script} ${event}${"seq" in fields ? ", probing" : ""}`;
      if (!seen.has(kind)) seen.set(kind, new Set());
      for (const field of Object.keys(fields)) seen.get(kind)!.add(field);
    }
  }
  for (const transport of ["tcp", "udp"]) {
    const [server, client] = [`${transport}_server.ts`, `${transport}_client.ts`];
    await using running = spawn(server, ["--port", "0", "--json"]);
    const ready = await running.nextLine();
    const args = ["--port", `${JSON.parse(ready).port}`, "--json"];
    take(client, (await runScript(client, [...args, "x".repeat(2_000), "stop"])).stdout);
    take(client, (await runScript(client, [...args, "--count", "1"])).stdout);
    take(server, `${ready}\n${(await running.stop()).stdout}`);
  }
  await using losing = spawn("udp_server.ts", ["--port", "0", "--json", "--drop", "1"]);
  const { port } = JSON.parse(await losing.nextLine());
  await runScript("udp_client.ts", ["-p", `${port}`, "--retries", "0", "--timeout", "0.05", "hi"]);
  take("udp_server.ts", (await losing.stop()).stdout);
  const expected = new Map<string, Set<string>>();
  for (const [event, from, fields] of rowsOf(sectionOf("README.md", "JSON"))) {
    const scripts = SCRIPTS.filter((name) => from!.includes(name) || from!.includes(kindOf(name)));
    for (const script of scripts) {
      const probing = event!.includes("echo") && from!.includes("probing") ? ", probing" : "";
      const kind = `${script} ${codeIn(event!)[0]}${probing}`;
      expected.set(kind, new Set(fieldsIn(fields!).map((field) => field.replace("?", ""))));
    }
  }
  const sorted = (map: Map<string, Set<string>>): unknown =>
    [...map].map(([kind, fields]) => [kind, [...fields].sort()]).sort();
  assertEquals(sorted(seen), sorted(expected));
});

/** `servers` or `clients`. */
function kindOf(script: string): string {
  return script.includes("server") ? "servers" : "clients";
}

// ---- Permissions ----

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
      const asked = /no permission .*Add --allow-net=(.*)\n$/.exec(stderr)?.[1];
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

Deno.test("README.md: its commands stand where CI looks for them", () => {
  const text = Deno.readTextFileSync(fileUrl("README.md"));
  for (const task of ["demo", "test"]) {
    assert(new RegExp(`^npx --yes deno@\\d+\\.\\d+\\.\\d+ task ${task}$`, "m").test(text));
  }
});

Deno.test("every link and every file that the documentation names is there", () => {
  for (const path of DOCS) {
    for (const { target } of linksIn(path)) {
      const [file, anchor] = target.split("#");
      assert(exists(new URL(file!, fileUrl(path))), `${path}: ${target}`);
      if (!anchor) continue;
      const titles = readSections(relative(file!, path)).map(({ title }) => title.toLowerCase());
      assert(titles.map((title) => title.replaceAll(" ", "-")).includes(anchor), target);
    }
  }
  for (const [place] of rowsOf(sectionOf("README.md", "Layout"))) {
    for (const name of codeIn(place!)) assert(exists(fileUrl(name)), name);
  }
});

/** A path in the repo, from a link in the file at `path`. */
function relative(target: string, path: string): string {
  return new URL(target, fileUrl(path)).href.slice(fileUrl("").href.length);
}

Deno.test("README.md, in your own tests: the example is checked, and passes", LIMIT, async () => {
  async function deno(...args: string[]): Promise<string> {
    const options = { args, cwd: fileUrl("."), env: { NO_COLOR: "1" } };
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
    assert(success, decode(stderr));
    return decode(stdout);
  }
  await deno("check", "--doc-only", ...DOCS);
  const { fences } = sectionOf("README.md", "In your own tests");
  const code = fences.flatMap(({ lines }) => lines).join("\n")
    .replace(/"\.\/(\w+\.ts)"/, (_, name) => `"${fileUrl(name)}"`);
  const file = await Deno.makeTempFile({ suffix: "_test.ts" });
  try {
    await Deno.writeTextFile(file, code);
    const options = ["--no-check", "--config", "deno.json", "--allow-net=127.0.0.1"];
    assertStringIncludes(await deno("test", ...options, file), "ok | 1 passed | 0 failed");
  } finally {
    await Deno.remove(file);
  }
});

Deno.test({
  name: "README.md, several machines: nginx spreads clients as it is configured there" +
    (HAS_NGINX ? "" : " (ignored: needs nginx and its stream module)"),
  ignore: !HAS_NGINX,
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

/** Runs nginx with the block of the README, on other ports. */
async function startNginx(ports: Record<string, string>): Promise<AsyncDisposable> {
  const { fences } = sectionOf("README.md", "Several processes, several machines");
  const [block] = fences.filter(({ info }) => info[0] === "nginx").map(({ lines }) => lines);
  const stream = block!.join("\n").replace(/\b120\d\d\b/g, (port) => ports[port]!);
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
