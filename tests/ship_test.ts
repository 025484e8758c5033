/**
 * What leaves this folder: a script with nothing beside it, `serve()` as somebody else's fixture, the
 * package, its version; and that a script touches its own addresses and nothing else of a machine.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { sectionOf } from "./_docs.ts";
import { decode, fileUrl, freePort, LIMIT, Program, runScript, SCRIPTS } from "./_helpers.ts";

const CONFIG = JSON.parse(Deno.readTextFileSync(fileUrl("deno.json")));
/** What stands in for JSR, where it cannot be reached: the same modules, from npm. */
const MAPPING: Record<string, string> = Object.fromEntries(
  Object.entries(CONFIG.imports as Record<string, string>)
    .filter(([name]) => name.startsWith("jsr:")),
);

/** Runs Deno to its end, and returns what it prints. It must succeed. */
async function deno(cwd: string | URL, ...args: string[]): Promise<string> {
  const options = { args, cwd, env: { NO_COLOR: "1" } };
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), options).output();
  assert(success, decode(stdout) + decode(stderr));
  return decode(stdout) + decode(stderr);
}

/** A new folder, with a `deno.json`, for as long as `use` takes. */
async function inFolder(config: object, use: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/deno.json`, JSON.stringify(config));
    await use(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

// ---- A fixture ----

/** Checks and runs a test in a folder that has nothing of this project. */
async function assertPasses(code: string, config: object): Promise<void> {
  // The mapping stands in for JSR, which may be out of reach.
  await inFolder({ imports: MAPPING, ...config }, async (folder) => {
    await Deno.writeTextFile(`${folder}/my_test.ts`, code);
    const shown = await deno(folder, "test", "--allow-net=127.0.0.1", ".");
    assertStringIncludes(shown, "Check "); // the types, too
    assertStringIncludes(shown, "ok | 1 passed | 0 failed");
  });
}

Deno.test("the fixture of README.md, elsewhere: it needs no setting", LIMIT, async () => {
  const [fence] = sectionOf("README.md", "In your own tests").fences;
  assertEquals(fence!.info, ["ts"]);
  const code = fence!.lines.join("\n").replace("./tcp_server.ts", fileUrl("tcp_server.ts").href);
  await assertPasses(code, {});
});

const UDP_EXAMPLE = `
import { serve } from "${fileUrl("udp_server.ts")}";

Deno.test("over UDP, on a bad line", async () => {
  await using server = serve({ port: 0, duplicate: 1, seed: 1 });
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  await socket.send(new TextEncoder().encode("Hello"), server.addr);
  for (let copies = 0; copies < 2; copies++) {
    if ((await socket.receive())[0].length !== 5) throw new Error("no echo");
  }
  socket.close();
});`;

Deno.test('the fixture over UDP, elsewhere: it needs `"unstable": ["net"]`', LIMIT, async () => {
  await assertPasses(UDP_EXAMPLE, { unstable: ["net"] });
});

// ---- What a script touches ----

/** Starts a script that may do all that it likes; Deno logs each access to something. */
function watch(script: string, args: string[], log: string): Program {
  const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
  const options = {
    args: ["run", "--allow-all", fileUrl(script).href, ...args],
    cwd: fileUrl("."),
    env: { DENO_AUDIT_PERMISSIONS: log },
  };
  const command = new Deno.Command(Deno.execPath(), { ...options, ...piped });
  return new Program(script, command.spawn());
}

/** What is in such a log, each once: "net 127.0.0.1:12000". */
function accessesIn(log: string): string[] {
  const lines = Deno.readTextFileSync(log).trim().split("\n");
  const accesses = lines.map((line) => JSON.parse(line));
  return [...new Set(accesses.map(({ permission, value }) => `${permission} ${value}`))].sort();
}

for (const transport of ["tcp", "udp"]) {
  Deno.test(
    `over ${transport.toUpperCase()} each side touches its own addresses, nothing else`,
    LIMIT,
    async () => {
      await inFolder({}, async (folder) => {
        const port = freePort();
        const options = ["--port", `${port}`];
        const names = [`${transport}_server.ts`, `${transport}_client.ts`] as const;
        await using server = watch(names[0], [...options, "--json"], `${folder}/server`);
        assertEquals(JSON.parse(await server.nextLine()).port, port);
        await using client = watch(names[1], [...options, "Hello", "stop"], `${folder}/client`);
        const { code, stdout } = await client.finish();
        assertEquals([code, stdout], [0, "Hello\nstop\n"]);
        const { peer } = JSON.parse((await server.stop()).stdout.split("\n")[0]!);
        const own = `net 127.0.0.1:${port}`;
        const isTcp = transport === "tcp"; // whose sockets are not asked about once they are there
        assertEquals(accessesIn(`${folder}/server`), isTcp ? [own] : [own, `net ${peer}`].sort());
        assertEquals(accessesIn(`${folder}/client`), isTcp ? [own] : ["net 127.0.0.1:0", own]);
      });
    },
  );
}

// ---- The package ----

Deno.test("each script has the version of deno.json", LIMIT, async () => {
  assertMatch(CONFIG.version, /^\d+\.\d+\.\d+$/);
  for (const script of SCRIPTS) {
    const { stdout } = await runScript(script, ["--version"]);
    assertEquals(stdout, `${script.replace(".ts", "")} ${CONFIG.version}\n`);
  }
});

Deno.test("the package exports the four scripts, under their names", () => {
  const named = SCRIPTS.map((script) => [
    `./${script.replace(".ts", "").replace("_", "-")}`,
    `./${script}`,
  ]);
  assertEquals(CONFIG.exports, Object.fromEntries(named));
  assertStringIncludes(Deno.readTextFileSync(fileUrl("LICENSE")), `${CONFIG.license} License`);
});

Deno.test(
  "deno publish --dry-run takes the scripts, and no file that JSR refuses",
  LIMIT,
  async () => {
    const shown = await deno(fileUrl("."), "publish", "--dry-run", "--allow-dirty", "--no-check");
    const files = [...shown.matchAll(/file:\S+\/([^/\s]+) \(/g)].map(([, name]) => name!);
    assertEquals(files.sort(), ["LICENSE", "README.md", "deno.json", ...SCRIPTS].sort());
    assertStringIncludes(shown, `${CONFIG.name}@${CONFIG.version}`);
    assertStringIncludes(shown, "Dry run complete");
  },
);

Deno.test("README.md: the Deno that it runs is at least the one that it asks for", () => {
  const text = Deno.readTextFileSync(fileUrl("README.md"));
  const least = /(\d+\.\d+\.\d+) or later/.exec(text)![1]!;
  const used = [...text.matchAll(/deno@(\d+\.\d+\.\d+)/g)].map(([, version]) => version!);
  for (const version of [...used, Deno.version.deno]) {
    assert(version.localeCompare(least, "en", { numeric: true }) >= 0, version);
  }
});
