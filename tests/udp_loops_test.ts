/**
 * `udp_server.ts` and datagrams whose source is forged: loops between echo servers, sources that are
 * no client's, and more sources than can be remembered.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertStringIncludes,
} from "@std/assert";
import { serve, type ServeOptions, type ServerEvent } from "../udp_server.ts";
import {
  decode,
  EventLog,
  fileUrl,
  hasTool,
  lastLine,
  LIMIT,
  LINUX,
  spawn,
  UdpPeer,
  unless,
} from "./_helpers.ts";
import { address, shown, start, startFake } from "./_udp.ts";

const CAN_FORGE = LINUX && hasTool("python3", "-c", "import socket; socket.socket(17, 3, 8)");
const ROUNDS = 65_537; // one of so many is remembered, and left out if it comes again
const MAX_HOSTS = 4_096; // that Deno is asked about

// ---- Loops ----

Deno.test(
  "a datagram forged to come from another echo service dies after 65,537 rounds",
  { timeout: 2 * LIMIT.timeout }, // 65,537 round trips of two real sockets
  async () => {
    // No raw socket is needed: the service's own first datagram is the forged one.
    await using service = new UdpPeer(({ bytes, from }, _, self) => self.send(bytes, from));
    await using server = start({ quiet: true, stopWords: [] });
    await service.send("forged", server.port);
    const { text } = await server.log.wait("warning");
    assertStringIncludes(text, `${shown(service.addr)}: one of 65537 identical datagrams`);
    assertEquals(service.count, ROUNDS);
    await using peer = new UdpPeer();
    assertEquals(decode(await peer.ask("still here", server.port)), "still here");
    assertEquals(service.count, ROUNDS);
  },
);

/** A datagram forged to come from another echo server, which echoes whatever comes: the rounds. */
async function circulate(
  count: number,
  { most, honest = 0, serveWith = serve, ...options }: ServeOptions & {
    most: number; // then it is given up
    honest?: number; // datagrams of others, for each round
    serveWith?: typeof serve;
  },
): Promise<{ rounds: number; swollen: number; lost: number }> {
  await using server = startFake({ quiet: true, stopWords: [], ...options }, serveWith);
  const { socket } = server;
  const service = address("127.0.0.1", 40_000);
  const others = address("127.0.0.1", 40_001);
  let [rounds, underWay, swollen, asked, answered] = [0, count, count, 0, 0];
  let last = "";
  socket.onReceive = ({ port }) => {
    if (port === service.port) underWay--;
  };
  socket.onSend = (bytes, to) => {
    if (to.port !== service.port) {
      answered += Number(decode(bytes) !== last); // not a copy of it
      last = decode(bytes);
      return;
    }
    if (++rounds >= most) return;
    swollen = Math.max(swollen, ++underWay);
    socket.deliver(bytes, service);
    for (let i = 0; i < honest; i++) socket.deliver(`sentence ${++asked}`, others);
  };
  for (let i = 0; i < count; i++) socket.deliver(`forged ${i}`, service);
  await socket.idle();
  assertLess(rounds, most, `${count} forged: they go on`);
  return { rounds, swollen, lost: asked - answered };
}

/** `serve` of a copy of the script with other numbers, so that many loops die in time. */
async function serveWithRounds(rounds: number, doubled: number): Promise<typeof serve> {
  let text = await Deno.readTextFile(fileUrl("udp_server.ts"));
  for (const [name, value] of [["LOOP_ROUNDS", rounds], ["MAX_DOUBLED", doubled]]) {
    const constant = new RegExp(`^const ${name} = [\\d_]+;`, "m");
    assertMatch(text, constant);
    text = text.replace(constant, `const ${name} = ${value};`);
  }
  return (await import(`data:application/typescript,${encodeURIComponent(text)}`)).serve;
}

Deno.test("loops: all of k forged datagrams die, in a time that grows as k", LIMIT, async (t) => {
  for (const count of [1, 2, 8]) {
    await t.step(`${count} forged`, async () => {
      const { swollen } = await circulate(count, { most: 2 * count * ROUNDS });
      assertEquals(swollen, count);
    });
  }

  await t.step("1 forged, an honest one beside each round", async () => {
    const { lost } = await circulate(1, { honest: 1, most: 2 * ROUNDS }); // no rhythm hides it
    assertEquals(lost, 0);
  });

  await t.step("1 forged, damaged in each round", async () => {
    await circulate(1, { corrupt: 1, most: 2 * ROUNDS });
  });

  await t.step("two of these servers", async () => {
    await using one = startFake({ quiet: true, stopWords: [] });
    await using other = startFake({ quiet: true, stopWords: [] });
    const most = 5 * ROUNDS;
    let rounds = 0;
    const [first, second] = [address("127.0.0.1", 40_001), address("127.0.0.1", 40_002)];
    one.socket.onSend = (bytes) => {
      if (++rounds < most) other.socket.deliver(bytes, first);
    };
    other.socket.onSend = (bytes) => one.socket.deliver(bytes, second);
    one.socket.deliver("forged", second);
    await Promise.race([one.log.wait("warning"), other.log.wait("warning")]);
    assertLessOrEqual(rounds, ROUNDS);
  });
});

const FEW = 1_009; // rounds in place of 65,537: a prime, and more than what circulates at once

for (
  const [how, copies, options] of [["", 1, {}], [", --duplicate 1", 2, { duplicate: 1 }]] as const
) {
  Deno.test(`loops: of hundreds of forged datagrams, too${how}`, LIMIT, async (t) => {
    const serveWith = await serveWithRounds(FEW, 1);
    for (const [count, honest] of [[1, 0], [200, 0], [100, 2], [800 / copies, 0]] as const) {
      await t.step(`${count}, ${honest} honest ones beside each`, async () => {
        const most = 2 * copies * (count + 1) * FEW;
        const { swollen, lost } = await circulate(count, { ...options, serveWith, honest, most });
        assertEquals([swollen, lost], [copies * count, 0]);
      });
    }
  });
}

Deno.test("--duplicate and --corrupt: a loop swells no further than its limit", LIMIT, async () => {
  const serveWith = await serveWithRounds(FEW, 20);
  const options = { serveWith, duplicate: 1, corrupt: 0.5, seed: 1 };
  const { swollen } = await circulate(1, { ...options, most: 200 * FEW });
  assertEquals(swollen, 21);
});

Deno.test("loops: who says the same for ever loses one in 65,537", LIMIT, async (t) => {
  for (const duplicate of [0, 1]) {
    await t.step(`--duplicate ${duplicate}`, async () => {
      await using server = startFake({ quiet: true, stopWords: [], duplicate });
      let replies = 0;
      server.socket.onSend = () => void replies++;
      const count = 3 * ROUNDS + 1;
      for (let i = 0; i < count; i++) server.socket.deliver("hello", address("127.0.0.1", 40_000));
      await server.socket.idle();
      await server.shutdown();
      assertEquals(server.log.of("shutdown")[0]!.unanswered, 3);
      assertEquals(replies, count - 3 + 1_000 * duplicate);
      const texts = server.log.of("warning").map(({ text }) => text);
      assertEquals(texts.length, 1 + duplicate);
      assertMatch(texts.at(-1)!, /: one of 65537 identical datagrams, /);
      if (duplicate) {
        assertMatch(texts[0]!, /same datagram of 127.0.0.1:40000 was doubled 1000 times/);
      }
    });
  }
});

Deno.test("what is left out is the very same, from the same peer, and once", LIMIT, async (t) => {
  const peer = address("127.0.0.1", 40_000);
  const rows: [string, [string, Deno.NetAddr][], number][] = [
    ["the same: once", [["hello", peer], ["hello", peer]], 1],
    ["the same, later", [["other", peer], ["hello", peer], ["hello", peer]], 2],
    ["other bytes", [["hellp", peer], ["hello!", peer], ["hell", peer], ["", peer]], 4],
    ["of another port, of another host", [
      ["hello", address("127.0.0.1", 40_001)],
      ["hello", address("127.0.0.2", 40_000)],
    ], 2],
  ];
  for (const [name, said, expected] of rows) {
    await t.step(name, async () => {
      await using server = startFake({ quiet: true, stopWords: [] });
      for (let i = 1; i < ROUNDS; i++) server.socket.deliver("x", address("127.0.0.1", 50_000));
      server.socket.deliver("hello", peer); // this one is remembered
      await server.socket.idle();
      let replies = 0;
      server.socket.onSend = () => void replies++;
      for (const [text, from] of said) server.socket.deliver(text, from);
      await server.socket.idle();
      assertEquals(replies, expected);
    });
  }
});

Deno.test("a stop word is no way around the loop guard and --rate", LIMIT, async (t) => {
  await t.step("a forged stop dies like any other datagram", async () => {
    await using server = startFake({ quiet: true });
    let echoes = 0;
    server.socket.onSend = (bytes, to) => {
      if (++echoes < 2 * ROUNDS) server.socket.deliver(bytes, to);
    };
    server.socket.deliver("stop", address("127.0.0.1", 40_000));
    await server.socket.idle();
    assertEquals(echoes, ROUNDS);
  });

  await t.step("over --rate it is not echoed, and ends no session", async () => {
    const log = new EventLog<ServerEvent>();
    await using server = serve({ port: 0, rate: 1, onEvent: log.add });
    await using peer = new UdpPeer();
    await peer.ask("hello", server.addr.port);
    for (let i = 0; i < 20; i++) await peer.send("stop", server.addr.port);
    await log.wait("message", 21);
    assertEquals((await peer.arrived()).length, 0);
    assertEquals(log.of("close"), []);
  });
});

Deno.test("a stop word ends the session if it is dealt with", LIMIT, async (t) => {
  const rows: [string, ServeOptions, number][] = [
    ["one that is left out as part of a loop does not", {}, ROUNDS],
    ["without an echo it does", { echo: false }, ROUNDS + 1],
    ["one whose reply --drop loses does", { drop: 1 }, ROUNDS],
  ];
  for (const [name, options, closes] of rows) {
    await t.step(name, async () => {
      await using server = startFake(options);
      const peer = address("127.0.0.1", 40_000);
      for (let i = 0; i <= ROUNDS; i++) server.socket.deliver("stop", peer);
      await server.socket.idle();
      const events = server.log.of("close");
      assertEquals(events.length, closes);
      assert(events.every(({ messages, bytes }) => messages === 1 && bytes === 4));
    });
  }
});

// ---- Sources ----

/** Host number `i` of 127.0.0.0/8. */
function host(i: number): string {
  return `127.${1 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`;
}

/** A permission that counts how often it is asked about a host. */
async function countingQueries(
  use: () => Promise<void>,
  answer: (host: string | undefined) => boolean | "partly",
): Promise<{ all: number; hosts: number }> {
  const real = Deno.permissions.querySync;
  const counts = { all: 0, hosts: 0 };
  const seen = new Set<string>();
  Deno.permissions.querySync = (descriptor) => {
    const { host } = descriptor as Deno.NetPermissionDescriptor;
    counts.all++;
    if (host !== undefined) seen.add(host);
    const state = answer(host) ? "granted" : "prompt";
    return { state, partial: answer(host) === "partly" } as Deno.PermissionStatus;
  };
  try {
    await use();
  } finally {
    Deno.permissions.querySync = real;
  }
  return { all: counts.all, hosts: seen.size };
}

Deno.test("sources: what Deno is asked, and keeps for ever, is bounded", LIMIT, async (t) => {
  await t.step("where all of net is allowed, nothing is asked of a peer", async () => {
    const { hosts } = await countingQueries(async () => {
      await using server = startFake({ quiet: true });
      for (let i = 0; i < 1_000; i++) server.socket.deliver("x", address(host(i), 5_000));
      await server.socket.idle();
    }, () => true);
    assertEquals(hosts, 0);
  });

  await t.step("where a part of it is denied, hosts are asked about", async () => {
    let replies = 0;
    const { hosts } = await countingQueries(async () => {
      await using server = startFake({ quiet: true });
      server.socket.onSend = () => void replies++;
      for (let i = 0; i < 1_000; i++) server.socket.deliver("x", address(host(i), 5_000));
      await server.socket.idle();
      assertEquals(server.log.of("warning").length, 1);
    }, (host) => host === undefined ? "partly" : host.endsWith("7"));
    assertEquals([hosts, replies], [1_000, 98]);
  });

  await t.step("a host is asked about once, whatever its ports", async () => {
    let replies = 0;
    const { all, hosts } = await countingQueries(async () => {
      await using server = startFake({ quiet: true });
      server.socket.onSend = () => void replies++;
      for (let i = 0; i < 40_000; i++) server.socket.deliver("x", address("127.0.0.1", 20_000 + i));
      await server.socket.idle();
    }, (host) => host !== undefined);
    assertEquals([hosts, replies], [1, 40_000]);
    assertLessOrEqual(all, 2); // and once if all is allowed
  });

  await t.step("of so many hosts at most; others are not answered, said once", async () => {
    const count = MAX_HOSTS + 1_000;
    let unanswered = 0;
    let replies = 0;
    const warnings: string[] = [];
    const { hosts } = await countingQueries(async () => {
      await using server = startFake({ quiet: true });
      server.socket.onSend = () => void replies++;
      for (let i = 0; i < count; i++) server.socket.deliver("x", address(host(i), 5_000));
      await server.socket.idle();
      server.socket.deliver("x", address(host(count - 1), 5_000)); // it stays so
      server.socket.deliver("x", address(host(0), 5_000)); // one of those is answered as before
      await server.socket.idle();
      await server.shutdown();
      warnings.push(...server.log.of("warning").map(({ text }) => text));
      unanswered = server.log.of("shutdown")[0]!.unanswered;
    }, (host) => host !== undefined);
    assertEquals(hosts, MAX_HOSTS);
    assertEquals([replies, unanswered], [hosts + 1, count - hosts + 1]);
    assertEquals(warnings.length, 1);
    assertStringIncludes(warnings[0]!, `more than ${hosts} hosts`);
  });

  await t.step("those that may not be answered are said once, whatever their hosts", async () => {
    await countingQueries(async () => {
      await using server = startFake({ quiet: true });
      server.socket.onSend = () => assert(false, "it is answered");
      for (let i = 0; i < 1_000; i++) server.socket.deliver("x", address(host(i), 5_000));
      await server.socket.idle();
      assertEquals(server.log.of("warning").length, 1);
      await server.shutdown();
      assertEquals(server.log.of("shutdown")[0]!.unanswered, 1_000);
    }, () => false);
  });
});

Deno.test("a source that is no client's is not answered, of either family", LIMIT, async (t) => {
  const rows: [host: string, port: number, answered: boolean][] = [
    ["0.0.0.0", 40_000, false],
    ["0.1.2.3", 40_000, false],
    ["::", 40_000, false],
    ["::ffff:0.0.0.0", 40_000, false],
    ["224.0.0.1", 40_000, false],
    ["239.255.255.250", 40_000, false],
    ["::ffff:224.0.0.1", 40_000, false],
    ["ff02::1", 40_000, false],
    ["255.255.255.255", 40_000, false],
    ["127.255.255.255", 40_000, false],
    ["::ffff:255.255.255.255", 40_000, false],
    ["::ffff:127.255.255.255", 40_000, false],
    ["fe80::1", 40_000, false], // the server has no zone that it could add
    ["febf::1", 40_000, false],
    ["127.0.0.1", 0, false],
    ["::1", 0, false],
    ["::1", 1_023, false],
    ["::1", 2_049, false],
    ["::1", 12_000, false], // its own
    ["::ffff:127.0.0.1", 12_000, false],
    ["127.0.0.1", 1_024, true],
    ["::1", 40_000, true],
    ["::2", 40_000, true],
    ["::ffff:127.0.0.1", 40_000, true],
    ["2001:db8::ff", 40_000, true],
    ["fec0::1", 40_000, true],
    ["100.0.0.1", 40_000, true],
    ["10.0.0.0", 40_000, true],
  ];
  for (const [host, port, answered] of rows) {
    await t.step(`${host}, port ${port}`, async () => {
      await using server = startFake({ quiet: true });
      let replies = 0;
      server.socket.onSend = () => void replies++;
      server.socket.deliver("hello", address(host, port));
      await server.socket.idle();
      assertEquals(replies, Number(answered));
      assertEquals(server.log.of("warning").length, Number(!answered));
    });
  }
});

/** Forges datagrams, then asks honestly; prints what a sniffer saw the server send meanwhile. */
const FORGE = `
import ctypes, json, socket, struct, sys
port = int(sys.argv[1])
target = socket.inet_aton("127.0.0.1")
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
# Only UDP from that port (BPF): on a busy machine the rest would fill the buffer.
program = [(0x30, 0, 0, 9), (0x15, 0, 4, 17), (0xB1, 0, 0, 0), (0x48, 0, 0, 0),
           (0x15, 0, 1, port), (6, 0, 0, 65535), (6, 0, 0, 0)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
sniffer.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 7, ctypes.addressof(code)))
sniffer.setblocking(False)
for source in sys.argv[2:]:
    host, source_port = source.split(":")
    data = b"from " + source.encode()
    udp = struct.pack("!HHHH", int(source_port), port, 8 + len(data), 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 63, 17, 0,  # TTL 63
                     socket.inet_aton(host), target)
    raw.sendto(ip + udp + data, ("127.0.0.1", 0))
honest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
honest.bind(("127.0.0.1", 0))
honest.settimeout(10)
honest.sendto(b"honest", ("127.0.0.1", port))
honest.recv(99)
seen = set()
try:
    while True:
        packet = sniffer.recv(65535)
        length = (packet[0] & 15) * 4
        ports = struct.unpack("!HH", packet[length:length + 4])
        if packet[9] == 17 and packet[8] != 63 and ports[0] == port:  # not forged itself
            seen.add(packet[length + 8:].decode())
except BlockingIOError:
    print(json.dumps(sorted(seen)))
`;

Deno.test({
  ...unless(
    !CAN_FORGE && "needs root and python3 on Linux",
    "forged datagrams get no reply and end nothing",
  ),
  ...LIMIT,
  fn: async (t) => {
    // It may send to each of them: it is not for want of permission that it does not.
    const hosts = ["127.0.0.1", "127.0.0.2", "127.255.255.255", "224.0.0.1", "239.255.255.250"];
    const allowNet = [...hosts, "255.255.255.255", "0.0.0.0", "127.0.0.3"].join();
    await using server = spawn("udp_server.ts", ["--port", "0"], { allowNet });
    const port = await server.port();
    const forged = [
      "127.0.0.1:0",
      "127.0.0.1:7",
      "127.0.0.1:19",
      "127.0.0.1:1023",
      "127.0.0.1:2049",
      `127.0.0.1:${port}`,
      `127.0.0.2:${port}`,
      "224.0.0.1:5353",
      "239.255.255.250:1900",
      "255.255.255.255:40000",
      "127.255.255.255:40000",
    ];
    const args = ["-c", FORGE, `${port}`, ...forged, ...forged, "127.0.0.3:1024"];
    const python = await new Deno.Command("python3", { args }).output();
    assert(python.success, decode(python.stderr));
    const replies: string[] = JSON.parse(decode(python.stdout));

    await t.step("the honest are answered, and a sniffer sees it", () => {
      assert(replies.includes("honest"));
      assert(replies.includes("from 127.0.0.3:1024"));
    });
    for (const source of forged) {
      const name = source.replace(`:${port}`, ": its own port"); // not new with each run
      await t.step(name, () => assert(!replies.includes(`from ${source}`), "it is answered"));
    }
    await t.step("each reason is said once, each datagram counted", async () => {
      const { code, stdout, stderr } = await server.stop();
      assertEquals(code, 0);
      assertEquals(lastLine(stdout).split(", ").at(-1), `${forged.length * 2} not answered`);
      for (const why of ["source port 0", "service", "own", "multicast"]) {
        assertEquals(stderr.split("\n").filter((line) => line.includes(why)).length, 1, why);
      }
      assertMatch(stderr, /^(udp_server: not answering [^\n]+\n){4,5}$/);
    });
  },
});
