/**
 * The demo: its pictures are right, whatever the timing, and complete, wherever they are printed.
 *
 * @module
 */

import { assert, assertEquals, assertGreaterOrEqual, assertMatch } from "@std/assert";
import {
  columns,
  joined,
  Logbook,
  probeScene,
  type Scene,
  type Side,
  tcpScene,
  toMermaid,
  toPicture,
  udpScene,
} from "../docs/demo.ts";
import { encode, LIMIT, PTY, type Random, runScript, seededRandom, spawn } from "./_helpers.ts";

const DEMO = "docs/demo.ts";
const NET = { allowNet: "127.0.0.1" };
const CLIENT_COLUMN = 8;
const SERVER_COLUMN = 44;

Deno.test("demo: TCP, from listen to the last close", LIMIT, async () => {
  assertEquals(
    masked(await tcpScene(["Hello, server!", "Grüß Gott, 你好", "stop"])),
    `TCP: a connection, sentences and their echoes, an orderly end

    ms  tcp_client.ts                       tcp_server.ts
     t                                      1-3 listen()
                                            listening on tcp 127.0.0.1:PPPPP
     t  1c  connect()      ───────────────▶ 4   accept()
                                            127.0.0.1:PPPPP connected
        > Hello, server!
     t  i   write(15)      ───────────────▶ 5   read() = 15
                                            [127.0.0.1:PPPPP] Hello, server!
     t  i   read() = 15    ◀─────────────── 5   write(15)
        Hello, server!
        > Grüß Gott, 你好
     t  i   write(20)      ───────────────▶ 5   read() = 20
                                            [127.0.0.1:PPPPP] Grüß Gott, 你好
     t  i   read() = 20    ◀─────────────── 5   write(20)
        Grüß Gott, 你好
        > stop
     t  i   write(5)       ───────────────▶ 5   read() = 5
                                            [127.0.0.1:PPPPP] stop
     t  i   read() = 5     ◀─────────────── 5   write(5)
        stop
     t  i   read() = null  ◀ FIN inferred ─ 6   closeWrite()
     t  ii  close()        ─ FIN inferred ▶ 5   read() = null
     t                                      6   close()
                                            127.0.0.1:PPPPP closed (stop):
                                              3 messages, 40 bytes, t s
     t                                      6   close() 127.0.0.1:PPPPP
                                            stopped: 1 connection, 3 messages,
                                              40 bytes, t s`,
  );
});

Deno.test("demo: TCP, where the client closes first", LIMIT, async () => {
  const picture = masked(await tcpScene(["Hello!"]));
  assertEquals(
    picture.slice(picture.indexOf("        Hello!\n")),
    `        Hello!
     t  ii  closeWrite()   ─ FIN inferred ▶ 5   read() = null
     t  i   read() = null  ◀ FIN inferred ─ 6   close()
                                            127.0.0.1:PPPPP closed (eof):
                                              1 message, 7 bytes, t s
     t  ii  close()
     t                                      6   close() 127.0.0.1:PPPPP
                                            stopped: 1 connection, 1 message,
                                              7 bytes, t s`,
  );
});

Deno.test("demo: UDP, a lost echo and the second try", LIMIT, async () => {
  // Of sixteen replies the first is lost; no machine is so slow that it misses the next by 2 s.
  const loss = { drop: 0.2, seed: 289, timeoutSeconds: 2 };
  assertEquals(
    masked(await udpScene(["Are you there?", "stop"], loss)),
    `UDP: no connection; an echo is lost, and the client tries again

    ms  udp_client.ts                       udp_server.ts --drop 0.2 --seed 289
     t                                      1-2 listenDatagram()
                                            listening on udp 127.0.0.1:PPPPP
     t  1b  listenDatagram()
        > Are you there?
     t  i   send(14)       ───────────────▶ 5   receive() = 14
                                            [127.0.0.1:PPPPP] Are you there?
     t                     lost ✕ ─ ─ ─ ─ ─ 5   --drop
     t  udp_client: no answer from
          127.0.0.1:PPPPP yet; trying again
     t  i   send(14)       ───────────────▶ 5   receive() = 14
                                            [127.0.0.1:PPPPP] Are you there?
     t  i   receive() = 14 ◀─────────────── 5   send(14)
        Are you there?
        > stop
     t  i   send(4)        ───────────────▶ 5   receive() = 4
                                            [127.0.0.1:PPPPP] stop
     t  i   receive() = 4  ◀─────────────── 5   send(4)
                                            127.0.0.1:PPPPP closed (stop):
                                              3 messages, 32 bytes, t s
        stop
     t  ii  close() 127.0.0.1:PPPPP
     t                                      6   close() 127.0.0.1:PPPPP
                                            stopped: 3 messages, 32 bytes,
                                              t s, 0 not answered, 1 dropped`,
  );
});

Deno.test("demo: a probe, its calls counted, and what it found", LIMIT, async () => {
  const scene = await probeScene({ count: 40, intervalSeconds: 0, timeoutSeconds: 1 });
  const picture = masked(scene);
  assertMatch(picture, /i {3}40 × send\(64\) +─+▶ 5 {3}40 × receive\(\) = 64/);
  const [, received, sent] = /i {3}(\d+) × receive\(\) = 64 ◀─+ 5 {3}(\d+) × send\(64\)/
    .exec(picture)!;
  const dropped = / lost ✕[ ─]+ 5 {3}(\d+) × --drop/.exec(picture)![1];
  const [, echoed, lost] = /40 sent, (\d+) echoed, (\d+) lost/.exec(picture)!;
  assertEquals(received, sent);
  assertEquals(lost, dropped);
  assertEquals(Number(echoed) + Number(lost), 40);
  const bars = picture.matchAll(/^ +(?:to|over) \d+ (?:µs|ms|s) +(\d+)/gm);
  assertEquals([...bars].reduce((sum, [, count]) => sum + Number(count), 0), Number(echoed));
  assertSound(toPicture(scene));
});

Deno.test("demo: its servers and clients say what the scripts print", LIMIT, async () => {
  await using server = spawn("tcp_server.ts", ["--port", "0", "--once"], NET);
  const port = await server.port();
  await runScript("tcp_client.ts", ["--port", `${port}`, "Hello!", "stop"]);
  const lines = mask((await server.finish()).stdout).trim().split("\n");
  const { moments } = await tcpScene(["Hello!", "stop"]);
  const said = moments.filter(({ side }) => side === "server").flatMap(({ says }) => says);
  assertEquals(said.slice(1).map(mask), lines);

  const lossy = ["--port", "0", "--once", "--drop", "0.2", "--seed", "289"];
  await using udp = spawn("udp_server.ts", lossy, NET);
  const options = ["--port", `${await udp.port()}`, "--timeout", "2"];
  await runScript("udp_client.ts", [...options, "Hello!", "stop"]);
  const udpLines = mask((await udp.finish()).stdout).trim().split("\n");
  const scene = await (udpScene(["Hello!", "stop"], { drop: 0.2, seed: 289, timeoutSeconds: 2 }));
  const udpSaid = scene.moments.filter(({ side }) => side === "server")
    .flatMap(({ says }) => says);
  assertEquals(udpSaid.slice(1).map(mask), udpLines);
});

Deno.test("demo: a probe's summary reads as the client prints it", LIMIT, async () => {
  await using server = spawn("udp_server.ts", ["--port", "0"], NET);
  const options = ["--port", `${await server.port()}`, "--count", "5", "--interval", "0"];
  const { stdout } = await runScript("udp_client.ts", [...options, "--quiet"]);
  const scene = await probeScene({ count: 5, intervalSeconds: 0, timeoutSeconds: 1 });
  const report = scene.moments.flatMap(({ report }) => report);
  const shape = (lines: string[]): string[] => {
    const isBar = (line: string): boolean => /^ +(to|over) /.test(line);
    const texts = lines.filter((line) => !isBar(line));
    const bars = lines.filter(isBar).map((line) =>
      /^ {1,9}(to|over) \d+ .?s +\d+( █+)?$/.test(line)
    );
    return [...texts, `bars: ${bars.every(Boolean)}`]
      .map((line) => line.replace(/\d+(\.\d+)?/g, "n").replace(/, n (duplicated|reordered)/g, ""));
  };
  assertEquals(shape(report), shape(stdout.trimEnd().split("\n")));
});

Deno.test("demo: a read that brings two writes, and a write that takes two reads", LIMIT, () => {
  const log = new Logbook();
  write(log, "client", "one\n");
  write(log, "client", "two\n");
  read(log, "server", "one\ntwo\n");
  write(log, "server", "one\ntwo\n");
  read(log, "client", "one");
  read(log, "client", "\ntwo\n");
  assertEquals(
    body(log),
    `     t  i   write(4)       ───────────▶ (a)
     t  i   write(4)       ───────────▶ (b)
     t                     (a)(b) ────────▶ 5   read() = 8
     t                     (c) ◀─────────── 5   write(8)
     t  i   read() = 3     ◀─────────── (c)
     t  i   read() = 5     ◀─────────── (c)`,
  );
});

Deno.test("demo: arrows that cross have two halves, and a lost one says so", LIMIT, () => {
  const log = new Logbook();
  const send = (side: Side, text: string): void =>
    log.call(side, { step: "i", call: `send(${text.length})`, bytes: encode(text) });
  const receive = (side: Side, text: string): void =>
    log.call(side, { step: "i", call: `receive() = ${text.length}`, bytes: encode(text) });
  send("client", "to you");
  send("server", "to me");
  receive("server", "to you");
  receive("client", "to me");
  send("client", "to nobody");
  send("server", "to nobody");
  assertEquals(
    body(log),
    `     t  i   send(6)        ───────────▶ (a)
     t  i   receive() = 5  ◀─────────────── i   send(5)
     t                     (a) ───────────▶ i   receive() = 6
     t  i   send(9)        ─ ─ ─ ✕ not read
     t                     not read ✕ ─ ─ ─ i   send(9)`,
  );
});

Deno.test("demo: accept() may be told before connect()", LIMIT, () => {
  const log = new Logbook();
  log.call("server", { step: "4", call: "accept()" });
  log.call("client", { step: "1c", call: "connect()" });
  assertEquals(body(log), "     t  1c  connect()      ───────────────▶ 4   accept()");
});

Deno.test("demo: whatever the timing, each arrow has two ends or says lost", LIMIT, () => {
  const random = seededRandom();
  for (let run = 0; run < 300; run++) {
    const log = run % 2 ? anyStream(random) : anyDatagrams(random);
    const lines = toPicture({ title: "", client: "", server: "", moments: joined(log.moments) });
    assertSound(lines);
    for (const side of ["client", "server"] as const) {
      const calls = log.moments.filter((moment) => moment.side === side).map(({ call }) => call);
      const drawn = lines.filter(hasArrow).map((line) => endsOf(line)[side]).filter(Boolean);
      assertEquals(drawn, calls); // each once, in its own order
    }
    const messages = toMermaid({ title: "", client: "", server: "", moments: log.moments })
      .filter((line) => /->>|--x/.test(line));
    const leaving = lines.filter((line) => /▶ \([a-z]\)$| \([a-z]\) ◀/.test(line));
    assertEquals(messages.length, lines.filter(hasArrow).length - leaving.length);
  }
});

Deno.test("demo: text of any width keeps to its column", LIMIT, () => {
  const widths = {
    "Grüß Gott, 你好": 15,
    "e\u0301": 1,
    "👩‍👧": 2,
    "ｱｲｳ": 3,
    "ＡＢＣ": 6,
    "한국": 4,
    "かな、": 6,
  };
  for (const [text, width] of Object.entries(widths)) assertEquals(columns(text), width, text);
  const log = new Logbook();
  write(log, "client", "你好".repeat(9));
  log.say("client", `> ${"你好".repeat(30)}`);
  read(log, "server", "你好".repeat(9));
  log.say("server", `[127.0.0.1:50000] ${"a word of 好 and one of 👩‍👧 ".repeat(9)}`);
  log.say("server", "x".repeat(200));
  const lines = toPicture({
    title: "",
    client: "c ".repeat(50),
    server: "服务器".repeat(20),
    moments: joined(log.moments),
  });
  assertSound(lines);
  for (const mark of ["服", "5   read()", "[127", "x"]) {
    const line = lines.find((line) => line.includes(mark))!;
    assertEquals(columns(line.slice(0, line.indexOf(mark))), SERVER_COLUMN, line);
  }
  const all = lines.join("");
  assertEquals(all.match(/你/g)?.length, 30);
  assertEquals(all.match(/👩‍👧/g)?.length, 9);
  assertEquals(all.match(/x/g)?.length, 200);
});

for (const [where, via] of [["a pipe", []], ["a terminal", PTY]] as const) {
  Deno.test(`demo: complete at ${where}, exit 0`, LIMIT, async () => {
    const { code, stdout, stderr } = await runScript(DEMO, [], { ...NET, via: [...via] });
    assertEquals([code, stderr], [0, ""]);
    const lines = stdout.replaceAll("\r", "").split("\n");
    assertSound(lines);
    for (const mark of ["TCP:", "UDP:", "A probe:", "accept()", "FIN inferred", "lost ✕"]) {
      assert(stdout.includes(mark), mark);
    }
    assertEquals(lines.filter((line) => line.includes("stopped: ")).length, 3);
    assertMatch(lines.at(-2)!, /dropped$/);
  });
}

Deno.test("demo: --mermaid has the messages of the picture", LIMIT, async () => {
  const scene = await tcpScene(["Grüß Gott; 你好", "stop"]);
  const arrows = toPicture(scene).filter(hasArrow).map((line) => {
    const { client, server } = endsOf(line);
    const fin = line.includes("FIN inferred") ? ": FIN inferred" : "";
    return line.includes("▶")
      ? `client->>server: ${client} → ${server}${fin}`
      : `server->>client: ${server} → ${client}${fin}`;
  });
  const diagram = toMermaid(scene);
  const messages = diagram.filter((line) => /->>|--x/.test(line))
    .map((line) => line.trim().replace(/(: |→ )[\di]+ /g, "$1").replace("1c ", "")); // but for steps
  assertEquals(messages, arrows);
  assert(diagram.some((line) => line.endsWith("Grüß Gott#59; 你好"))); // as ";" ends a line
  assertEquals(diagram.filter((line) => line.startsWith("```")), ["```mermaid", "```"]);
});

Deno.test("demo: --mermaid prints three diagrams, --help its options", LIMIT, async () => {
  const { code, stdout } = await runScript(DEMO, ["--mermaid"], NET);
  assertEquals(code, 0);
  assertEquals(stdout.match(/^```mermaid\nsequenceDiagram$/gm)?.length, 3);
  assertMatch(stdout, /^ {2}server--xclient: 5 --drop: lost$/m);
  const help = await runScript(DEMO, ["--help"], { allowNet: false });
  assertEquals(help.code, 0);
  assertMatch(help.stdout, /--mermaid/);
  assertSound(help.stdout.split("\n"));
});

Deno.test("demo: one scene, or two, where they are named", LIMIT, async () => {
  const { code, stdout } = await runScript(DEMO, ["udp", "tcp", "--mermaid"], NET);
  assertEquals(code, 0);
  const titles = stdout.match(/^### \w+/gm);
  assertEquals(titles, ["### UDP", "### TCP"]);
  const other = await runScript(DEMO, ["ucp"], NET);
  assertEquals([other.code, other.stdout], [2, ""]);
  assertEquals(other.stderr, 'demo: unexpected "ucp"; --help lists what is allowed\n');
});

Deno.test("demo: it explains each step that its pictures name", LIMIT, async () => {
  const { stdout } = await runScript(DEMO, ["tcp", "udp"], NET);
  const [introduction = "", ...scenes] = stdout.split(/^(?=TCP:|UDP:)/m);
  const steps = scenes.flatMap((scene) => {
    const calls = scene.matchAll(
      /(?<=^ *\d+\.\d .*)(?<= )(\d(?:-\d)?|\dc?b?|ii?) +[a-z]+[A-Z]?\w*\(/gm,
    );
    return [...calls].map(([, step]) => step!);
  });
  assert(steps.length > 20);
  const explained = [...introduction.matchAll(/[\w.-]+/g)].map(([word]) => word);
  for (const step of new Set(steps)) {
    assert(explained.includes(step) || explained.includes(`1-3`) && /^\d-\d$/.test(step), step);
  }
});

Deno.test("demo: wrong use, and no permission, are one line each", LIMIT, async () => {
  const { code, stdout, stderr } = await runScript(DEMO, ["--mermaids"], NET);
  assertEquals([code, stdout], [2, ""]);
  assertEquals(stderr, 'demo: unexpected "--mermaids"; --help lists what is allowed\n');
  const refused = await runScript(DEMO, [], { allowNet: false });
  assertEquals(refused.code, 1);
  assertMatch(refused.stderr, /^demo: cannot listen on 127\.0\.0\.1:0: .*--allow-net.*\n$/);
});

// ---- Pictures ----

/** Times, ports and seconds differ from run to run. */
function mask(text: string): string {
  return text.replace(/127\.0\.0\.1:\d{4,5}/g, "127.0.0.1:PPPPP").replace(/\d+\.\d s\b/g, "t s");
}

function maskTime(line: string): string {
  return line.replace(/^ *\d+\.\d(?= {2})/, (time) => "t".padStart(time.length));
}

function masked(scene: Scene): string {
  return toPicture(scene).map((line) => mask(maskTime(line))).join("\n");
}

/** The rows of a log alone. */
function body({ moments }: Logbook): string {
  const [, , , ...lines] = toPicture({
    title: "",
    client: "",
    server: "",
    moments: joined(moments),
  });
  return lines.map(maskTime).join("\n");
}

function hasArrow(line: string): boolean {
  return /[▶◀✕]/.test(line);
}

/** The calls at both ends of an arrow, without their steps, and the letters of its halves. */
function endsOf(line: string): { client: string; server: string; letters: string[] } {
  const call = (column: string): string =>
    /^\S+ +((?:\d+ × )?[-\w]+(?:\(\d*\))?(?: = \w+)?)/.exec(column)?.[1] ?? "";
  const letters = [...line.matchAll(/\(([a-z])\)/g)].map(([, letter]) => letter!);
  const [client, server] = [line.slice(CLIENT_COLUMN, SERVER_COLUMN), line.slice(SERVER_COLUMN)];
  return { client: call(client), server: call(server), letters };
}

/** No line is too wide; time goes on; each arrow has two ends, or one and a word. */
function assertSound(lines: string[]): void {
  let before = 0;
  const [left, arrived] = [new Set<string>(), new Set<string>()]; // letters
  for (const line of lines) {
    assert(columns(line) <= 80, `too wide: ${line}`);
    if (line.startsWith("    ms  ")) before = 0; // of the next scene
    const time = Number(/^ *(\d+\.\d) {2}/.exec(line)?.[1] ?? before);
    assertGreaterOrEqual(time, before, line);
    before = time;
    if (!hasArrow(line)) continue;
    const { client, server, letters } = endsOf(line);
    const [from, to] = line.includes("▶") ? [client, server] : [server, client];
    if (line.includes("✕")) {
      assert(/lost|not read/.test(line) && Boolean(client) !== Boolean(server));
    } else if (letters.length === 0) assert(from && to, line);
    else assert(Boolean(from) !== Boolean(to), line);
    for (const letter of letters) {
      if (from) assert(!left.has(letter), line);
      (from ? left : arrived).add(letter);
    }
  }
  assertEquals(arrived, left);
}

// ---- Made-up logs ----

function write(log: Logbook, side: Side, text: string): void {
  const bytes = encode(text);
  log.call(side, { step: side === "client" ? "i" : "5", call: `write(${bytes.length})`, bytes });
}

function read(log: Logbook, side: Side, text: string): void {
  const bytes = encode(text);
  log.call(side, { step: side === "client" ? "i" : "5", call: `read() = ${bytes.length}`, bytes });
}

/** Both directions of a stream, written and read in pieces of any size, at any time. */
function anyStream(random: Random): Logbook {
  const log = new Logbook();
  const sides = ["client", "server"] as const;
  const onWay = { client: 0, server: 0 }; // bytes that this side may read
  for (let step = 0; step < 12 || onWay.client + onWay.server > 0; step++) {
    const side = sides[random.int(2)]!;
    const other = side === "client" ? "server" : "client";
    const size = 1 + random.int(6);
    if (onWay[side] > 0 && (step >= 12 || random.int(2))) {
      const length = Math.min(size, onWay[side]);
      read(log, side, "x".repeat(length));
      onWay[side] -= length;
    } else if (step < 12) {
      write(log, side, "x".repeat(size));
      onWay[other] += size;
    }
  }
  return log;
}

/** Datagrams of both sides, some the same, some lost, in order otherwise. */
function anyDatagrams(random: Random): Logbook {
  const log = new Logbook();
  const sides = ["client", "server"] as const;
  const onWay = { client: [] as string[], server: [] as string[] };
  for (let step = 0; step < 16; step++) {
    const side = sides[random.int(2)]!;
    const other = side === "client" ? "server" : "client";
    const [next] = onWay[side];
    if (next && random.int(2)) {
      onWay[side].shift();
      log.call(side, { step: "i", call: `receive() = ${next.length}`, bytes: encode(next) });
      continue;
    }
    const text = "x".repeat(1 + random.int(3));
    log.call(side, { step: "i", call: `send(${text.length})`, bytes: encode(text) });
    if (random.int(3)) onWay[other].push(text);
  }
  return log;
}
