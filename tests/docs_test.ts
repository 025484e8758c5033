/**
 * What the documents show and say: transcripts, messages, options, places in the code, events,
 * permissions, and the configuration of nginx are all tried. The lab's programs have tests of their
 * own, in lab_small_test.ts and lab_whole_test.ts.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
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
import { documents, fixLinks } from "./_links.ts";
import { isPrintable, type Template, templatesIn } from "./_messages.ts";
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
  UdpPeer,
  unless,
} from "./_helpers.ts";
import { serve as serveTcp } from "../tcp_server.ts";
import { serve as serveUdp } from "../udp_server.ts";

const DOCS = documents();
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

/** Of npx, a firewall, nping, sudo, unshare and docker. */
const OPTIONS_OF_OTHERS =
  " --quick --yes --prefer-offline --add-port --udp --source-port --user --net" +
  " --map-root-user --network";

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
    .join("\n") + OPTIONS_OF_OTHERS;
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
function linksIn(markdown: string): { text: string; target: string }[] {
  const links = markdown.matchAll(/\[([^\]]+)\]\((?!https:)([^)]+)\)/g);
  return [...links].map(([, text, target]) => ({ text: text!, target: target! }));
}

Deno.test("a link to a function leads to its line (deno task sync puts it right)", () => {
  assertEquals(fixLinks({ check: true }), []);
  for (const path of documents()) {
    for (const paragraph of Deno.readTextFileSync(fileUrl(path)).split(/\n\n|(?<=\|)\n/)) {
      const shown = paragraph.replace(/\]\([^)]*\)/g, "]");
      for (const { text, target } of linksIn(paragraph)) {
        const [file = "", line] = target.split("#");
        const name = file.split("/").at(-1)!;
        if (!/\.(ts|py)$/.test(name) || codeIn(text).length === 0) continue;
        if (codeIn(text).includes(name)) continue; // the whole file
        assert(line, `${path}: "${text}" has no line`);
        assert(
          shown.includes(name),
          `${path}: "${text}" does not say where, to who reads on paper`,
        );
      }
    }
  }
});

// ---- Messages ----

const NAMES = /^(tcp_server|tcp_client|udp_server|udp_client): (.*)/; // of the scripts, at messages
const EVENT = /^(?:\^C)?\S+:\d+ (?:connected|closed \(.*)$|^(?:\^C)?(?:stopped|listening on): ?.*/;
/** What stands in a document as code, and is no message: commands, options, code, data. */
const NO_MESSAGE =
  /^(-|\$|sudo |deno |npx |npm |docker |task |python3? |kill |ulimit |ip |ss |nc |ncat |socat |nping |seq |unshare |strace |sysctl |netsh |firewall-cmd |\w+\.ts |echo (stream|dgram) )|[=;]|^new |^\?\? |: ["[]|\w\(|…$/;
const OTHERS = ["Allow? [y/n/A]"]; // Deno's own, tried below
/** What a system says, of which the scripts repeat the reason. */
const REASONS = ["connection refused", "address already in use", "connection reset by peer"];

const templates = new Map(
  SCRIPTS.map((name) => [name, [...templatesIn(sources.get(name)!), ...REASONS.map((it) => [it])]]),
);

/** All messages that a document quotes, with the strings of what prints them. */
function messagesIn(path: string): { message: string; from: Template[] }[] {
  const all = [...allTemplates()];
  const text = Deno.readTextFileSync(fileUrl(path));
  const prose = text.replace(/^```.*?^```$/gms, "");
  const quoted = codeIn(prose).map((code) => code.replaceAll("\n", " "))
    .filter((code) => code.includes(" ") && !NO_MESSAGE.test(code) && !OTHERS.includes(code))
    .map((message) => ({ message, from: all }));
  const shown = readSections(path).flatMap(transcriptsOf).flatMap(({ lines }) => lines)
    .flatMap((line) => {
      const [, script, message] = NAMES.exec(line) ?? [];
      if (script) return [{ message: message!, from: templates.get(`${script}.ts`)! }];
      return EVENT.test(line) ? [{ message: line.replace("^C", ""), from: all }] : [];
    });
  return [...quoted, ...shown];
}

/** The strings of every program of the repo that a document may quote. */
function* allTemplates(): Generator<Template> {
  for (const each of templates.values()) yield* each;
  for (const folder of ["docs/", "docs/lab/", "docs/lab/grade/"]) {
    if (!exists(fileUrl(folder))) continue;
    for (const { name } of Deno.readDirSync(fileUrl(folder))) {
      const kind = /\.(ts|py)$/.exec(name)?.[1] as "ts" | "py" | undefined;
      if (kind) yield* templatesIn(Deno.readTextFileSync(fileUrl(folder + name)), kind);
    }
  }
}

for (const path of documents()) {
  Deno.test(`${path}: the messages that it quotes are ones that the code can print`, () => {
    for (const { message, from } of messagesIn(path)) assert(isPrintable(message, from), message);
  });
}

Deno.test("a message of which one word is changed is none that the code can print", () => {
  const messages = documents().flatMap(messagesIn);
  assert(messages.length > 30);
  for (const { message, from } of messages) {
    const data = /"[^"]*"|--\S+/g;
    const longest = message.replace(data, "").match(/\p{L}+/gu)!.sort((a, b) =>
      b.length - a.length
    )[0]!;
    const changed = message.replace(longest, `${longest}ly`);
    assert(!isPrintable(changed, from), changed);
  }
});

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
  function take(script: string, output: string, probing = false): void {
    for (const line of output.trim().split("\n")) {
      const object = JSON.parse(line);
      const [time, event, ...fields] = Object.keys(object);
      assertEquals([time, event], ["time", "event"]);
      assertMatch(object.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      const isOfProbe = probing && ["echo", "summary"].includes(object.event);
      const kind = `${script} ${object.event}${isOfProbe ? " probing" : ""}`;
      seen.set(kind, new Set([...seen.get(kind) ?? [], ...fields]));
    }
  }
  /** Runs a script to its end. */
  async function run(script: string, args: string[]): Promise<void> {
    take(script, (await runScript(script, [...args, "--json"])).stdout, args.includes("--count"));
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

/** A type as `deno doc --json` describes it. */
type DocType = {
  kind: string;
  value: unknown;
};
type DocProperty = { name: string; tsType: DocType & { value: { string?: string } } };
type DocSymbol = { name: string; declarations: { def: { tsType?: DocType } }[] };

/** The members of an object type, of a union of them one each: the names, and which event it is. */
function shapesOf(type: DocType, symbols: DocSymbol[]): Map<string, string>[] {
  if (type.kind === "union") {
    return (type.value as DocType[]).flatMap((each) => shapesOf(each, symbols));
  }
  if (type.kind === "intersection") {
    return (type.value as DocType[]).map((each) => shapesOf(each, symbols))
      .reduce((all, next) => all.flatMap((a) => next.map((b) => new Map([...a, ...b]))));
  }
  if (type.kind === "typeRef") {
    const { typeName } = type.value as { typeName: string };
    const found = symbols.find(({ name }) => name === typeName)?.declarations[0]?.def.tsType;
    return found ? shapesOf(found, symbols) : [];
  }
  const { properties } = type.value as { properties: DocProperty[] };
  return [new Map(properties.map(({ name, tsType }) => [name, tsType.value?.string ?? ""]))];
}

for (const script of SCRIPTS) {
  Deno.test(
    `README.md, JSON: each event of ${script}, as its source has it, is in the table`,
    LIMIT,
    async () => {
      const args = ["doc", "--json", fileUrl(script).pathname];
      const { stdout } = await new Deno.Command(Deno.execPath(), { args }).output();
      const [{ symbols }] = Object.values(JSON.parse(decode(stdout)).nodes) as [
        { symbols: DocSymbol[] },
      ];
      const events = symbols.filter(({ name }) => /Event$/.test(name))
        .flatMap(({ declarations }) => {
          const type = declarations[0]?.def.tsType;
          return type ? shapesOf(type, symbols) : [];
        })
        .filter((shape) => shape.has("event"));
      if (script.includes("server")) assert(events.length >= 5);
      const table = eventsInTable();
      for (const shape of events) {
        const kind = `${script} ${shape.get("event")}${shape.has("seq") ? " probing" : ""}`;
        const fields = [...shape.keys()].filter((name) => !["event", "time"].includes(name));
        assertEquals(fields.sort(), [...table.get(kind) ?? []].sort(), kind);
      }
      // And those that it makes in other places, without a type.
      for (const [, name] of sources.get(script)!.matchAll(/\bevent: "(\w+)"/g)) {
        assert([...table.keys()].some((kind) => kind.startsWith(`${script} ${name}`)), name);
      }
    },
  );
}

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
  for (const path of documents()) {
    for (const { target } of linksIn(Deno.readTextFileSync(fileUrl(path)))) {
      const [file = "", anchor] = target.split("#");
      assert(exists(new URL(file, fileUrl(path))), `${path}: ${target}`);
      if (!anchor || /^L\d+$/.test(anchor)) continue;
      const titles = readSections(relative(file, path)).map(({ title }) => title.toLowerCase());
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

    await t.step("a thousand clients over UDP, within its time-out", async () => {
      for (let i = 0; i < 1_000; i++) {
        await using peer = new UdpPeer();
        assertEquals(decode(await peer.ask(`client ${i}`, Number(port))), `client ${i}`);
      }
    });
  },
});

/** Runs nginx with docs/nginx.conf, on other ports. */
async function startNginx(ports: Record<string, string>): Promise<AsyncDisposable> {
  const stream = (await Deno.readTextFile(fileUrl("docs/nginx.conf")))
    .replace(/\b120\d\d\b/g, (port) => ports[port]!);
  const directory = await Deno.makeTempDir();
  const config = `${directory}/nginx.conf`;
  const head = `load_module ${STREAM_MODULE};
    daemon off; master_process off; pid ${directory}/pid; error_log stderr notice;`;
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
