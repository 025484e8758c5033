/**
 * Faults that only time and real networks make: a process that was suspended, a path that is down
 * for a while, addresses that mean something on one link only, a name server that never answers.
 *
 * @module
 */

import { assert, assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import {
  dropRule,
  eventsOf,
  makeLink,
  makeNetwork,
  NEEDS,
  type Network,
  PLAIN_UDP,
  python,
  seconds,
  test,
  timed,
} from "./_faults.ts";
import {
  decode,
  DEFAULTS,
  exchange,
  freePort,
  type Program,
  readExactly,
  type Result,
  rudeServer,
  runScript,
  spawn,
  type SpawnOptions,
  UdpPeer,
  writeAll,
} from "./_helpers.ts";

// ---- Suspended ----

/** Steps at once: each is mostly a wait. */
const ALONE = { sanitizeOps: false, sanitizeResources: false, sanitizeExit: false } as const;

/** Suspends a process for longer than it waits; `meanwhile` happens after it fell asleep. */
async function suspended(program: Program, meanwhile: () => Promise<void>): Promise<void> {
  program.kill("SIGSTOP");
  const state = (): string => Deno.readTextFileSync(`/proc/${program.pid}/stat`).split(") ")[1]!;
  while (!state().startsWith("T")) await seconds(0.001);
  await meanwhile();
  await seconds(1.5); // each waits for one second
  program.kill("SIGCONT");
}

test("a process that was suspended reads before it judges", NEEDS.linux, async (t) => {
  await Promise.all([ // each takes its seconds
    t.step({
      name: "udp_client.ts: the echo of a sentence",
      ...ALONE,
      fn: async () => {
        await using server = new UdpPeer();
        const args = ["-p", `${server.addr.port}`, "--retries", "0", "--timeout", "1", "hello"];
        await using client = spawn("udp_client.ts", args);
        const { bytes, from } = await server.next();
        await suspended(client, () => server.send(bytes, from));
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
      },
    }),

    t.step({
      name: "udp_client.ts: nor is it sent again",
      ...ALONE,
      fn: async () => {
        await using server = new UdpPeer();
        const args = ["-p", `${server.addr.port}`, "--retries", "3", "--timeout", "1", "hello"];
        await using client = spawn("udp_client.ts", args);
        const { bytes, from } = await server.next();
        await suspended(client, () => server.send(bytes, from));
        assertEquals((await client.finish()).code, 0);
        assertEquals(server.count, 1);
      },
    }),

    t.step({
      name: "udp_client.ts: the last echoes of a probe, and their copies",
      ...ALONE,
      fn: async () => {
        await using server = new UdpPeer();
        const args = ["-p", `${server.addr.port}`, "-c", "2", "-i", "0", "--timeout", "1"];
        await using client = spawn("udp_client.ts", args);
        const [one, two] = [await server.next(), await server.next()];
        await suspended(client, async () => {
          for (const { bytes, from } of [one, one, two, two]) await server.send(bytes, from);
        });
        const { code, stdout } = await client.finish();
        assertMatch(stdout, /^2 sent, 2 echoed, 0 lost \(0 %\), 2 duplicated$/m);
        assertEquals(code, 0);
      },
    }),

    t.step({
      name: "tcp_client.ts: the echo",
      ...ALONE,
      fn: async () => {
        const asleep = Promise.withResolvers<void>();
        const asked = Promise.withResolvers<void>();
        const answered = Promise.withResolvers<void>();
        await using server = rudeServer(async (conn) => {
          const bytes = await readExactly(conn, 6);
          asked.resolve();
          await asleep.promise;
          await writeAll(conn, bytes);
          answered.resolve();
        });
        const args = ["-p", `${server.port}`, "--timeout", "1", "hello"];
        await using client = spawn("tcp_client.ts", args);
        await asked.promise;
        await suspended(client, async () => {
          asleep.resolve();
          await answered.promise;
        });
        const { code, stdout, stderr } = await client.finish();
        assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
      },
    }),

    t.step({
      name: "tcp_server.ts: --idle",
      ...ALONE,
      fn: async () => {
        await using server = spawn("tcp_server.ts", ["-p", "0", "--idle", "1", "--json"]);
        const { port } = JSON.parse(await server.nextLine());
        using conn = await Deno.connect({ port });
        assertEquals(await exchange(conn, "hello\n"), "hello\n");
        await suspended(server, () => writeAll(conn, "again\n"));
        assertEquals(decode(await readExactly(conn, 6)), "again\n");
        conn.close();
        const closes = eventsOf((await server.stop()).stdout).filter((e) => e.event === "close");
        assertEquals(closes.map(({ reason }) => reason), ["eof"]);
      },
    }),
  ]);
});

test("suspended while it connects: the connection counts", NEEDS.namespace, async () => {
  using link = makeLink();
  await using server = spawn("tcp_server.ts", ["-H", "10.9.8.2", "-p", "0", "--once"], {
    via: link.far.via,
    allowNet: "10.9.8.2:0",
  });
  const port = await server.port();
  link.far.run(dropRule("meta l4proto tcp")); // the first SYN is lost, the next comes in a second
  const args = ["-H", "10.9.8.2", "-p", `${port}`, "--timeout", "2", "--trace", "hello"];
  await using client = spawn("tcp_client.ts", args, {
    via: link.near.via,
    allowNet: `10.9.8.2:${port}`,
  });
  link.near.run("until grep -q ' 02 ' /proc/net/tcp; do sleep 0.01; done"); // SYN_SENT
  await suspended(client, async () => {
    link.far.run("nft delete table ip echo");
    await server.stdout.until("connected");
    await seconds(1); // and 1.5 more: its two are over
  });
  const { code, stdout, stderr } = await client.finish();
  assertEquals([code, stdout], [0, "hello\n"], stderr);
});

// ---- Links ----

test("a path that is down for a while: counted, not given up on", NEEDS.namespace, async () => {
  using link = makeLink();
  await using server = python(PLAIN_UDP.replace("127.0.0.1", "10.9.8.2"), [], {
    via: link.far.via,
  });
  const port = await server.nextLine();
  // More waits for an address to be resolved than a socket may send: then its sends wait as well.
  link.near.run("echo 4000000 > /proc/sys/net/ipv4/neigh/veth0/unres_qlen_bytes");
  const args = ["-H", "10.9.8.2", "-p", port, "-c", "3000", "-i", "0.002", "-s", "1400"];
  await using client = spawn("udp_client.ts", [...args, "--timeout", "0.3", "--json"], {
    via: link.near.via,
    allowNet: `0.0.0.0:0,10.9.8.2:${port}`,
  });
  await client.stdout.until('"seq":500,');
  // The machine is gone: nobody answers for its address, and what is sent fills the send buffer.
  link.far.run(`nft 'add table arp echo
    add chain arp echo in { type filter hook input priority 0; policy drop; }
    add chain arp echo out { type filter hook output priority 0; policy drop; }'`);
  link.near.run("ip neigh flush dev veth0");
  await seconds(1);
  link.far.run("nft delete table arp echo");
  const { code, stdout } = await client.finish();
  const summary = eventsOf(stdout.slice(stdout.indexOf("\n") + 1))
    .find(({ event }) => event === "summary");
  assertEquals([code, summary.sent], [1, 3_000]);
  assert(summary.lost > 0, "it was never down");
  assert(summary.echoed > 600, `${summary.echoed} came back`); // more than before it was down
});

/** Forges `count` datagrams to a port of 10.9.8.2, from hosts of its network that are not there. */
const FORGE_ABSENT = `
import socket, struct, sys
port, count = map(int, map(float, sys.argv[1:]))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
udp = struct.pack("!HHHH", 40000, port, 9, 0) + b"x"
for i in range(count):
    source = bytes([10, 9, 8, 3 + i % 250])
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, source, b"\\x0a\\x09\\x08\\x02")
    raw.sendto(ip + udp, ("10.9.8.2", 0))
`;

/** A command that ends when the send buffer of a UDP port is full: what is sent then waits. */
function waitForFullSendBuffer(port: number): string {
  const local = port.toString(16).toUpperCase().padStart(4, "0");
  const isFull = `$2 ~ /:${local}$/ && substr($5, 1, 8) >= "00033F00" { full = 1 }`; // of 0x34000
  return `until awk '${isFull} END { exit !full }' /proc/net/udp; do sleep 0.01; done`;
}

test(
  "udp_server.ts ends though its send waits for hosts that are not there",
  NEEDS.namespace,
  async (t) => {
    await Promise.all([[], ["--delay", "1"]].map((args) =>
      t.step({
        name: args.join(" ") || "at once",
        ...ALONE,
        fn: async () => {
          using link = makeLink();
          await using server = spawn(
            "udp_server.ts",
            ["-H", "10.9.8.2", "-p", "0", "-q", ...args],
            {
              via: link.far.via,
              allowNet: Array.from({ length: 252 }, (_, i) => `10.9.8.${2 + i}`).join(),
            },
          );
          const port = await server.port();
          await using _forger = python(FORGE_ABSENT, [port, 1e9], { via: link.near.via });
          link.far.run(waitForFullSendBuffer(port));
          const { code, stdout, stderr } = await server.stop();
          assertEquals(code, 0);
          assertMatch(stderr, /^udp_server: waiting for up to 4\.3 s for replies to be sent$/m);
          assertMatch(stdout, /^stopped: .* not answered/m);
        },
      })
    ));
  },
);

test("addresses of one link: fe80::2%veth0", NEEDS.namespace, async (t) => {
  using link = makeLink();
  const host = "fe80::2%veth0";
  const rows = [
    // The permission of each, without the zone; a UDP server answers from it to its peer.
    ["tcp", (port: number) => `[fe80::2]:${port}`, (port: number) => `[fe80::2]:${port}`],
    ["udp", () => "[fe80::2],[fe80::1]", (port: number) => `[::]:0,[fe80::2]:${port}`],
  ] as const;
  for (const [pair, ofServer, ofClient] of rows) {
    for (const spelling of [host, `[${host}]`]) {
      await t.step(`${pair} -H ${spelling}`, async () => {
        const port = freePort();
        const args = ["-H", spelling, "-p", `${port}`, "--timeout", "5"];
        const serve = [...args.slice(0, 4), "--once"];
        const far = { via: link.far.via, allowNet: ofServer(port) };
        const near = { via: link.near.via, allowNet: ofClient(port) };
        await using server = spawn(`${pair}_server.ts`, serve, far);
        assertEquals(await server.nextLine(), `listening on ${pair} [fe80::2]:${port}`);
        const client = await runScript(`${pair}_client.ts`, [...args, "hello", "stop"], near);
        assertEquals([client.code, client.stdout, client.stderr], [0, "hello\nstop\n", ""]);
        const { code, stdout, stderr } = await server.finish();
        assertEquals([code, stderr], [0, ""]);
        assertStringIncludes(stdout, "[[fe80::1]:");
      });
    }

    for (const side of ["server", "client"] as const) {
      await t.step(`${pair}_${side}.ts says which permission it lacks`, async () => {
        const exact = side === "client"
          ? ofClient(DEFAULTS.port)
          : pair === "tcp"
          ? ofServer(DEFAULTS.port)
          : "[fe80::2]";
        const script = `${pair}_${side}.ts`;
        const { via } = side === "server" ? link.far : link.near;
        const { code, stderr } = await runScript(script, ["-H", host], { via, allowNet: false });
        assertEquals(code, 1);
        assertMatch(stderr, /^\w+: no permission to use [^\n]+\n$/);
        assert(stderr.endsWith(` add --allow-net=${exact}\n`), stderr);
      });
    }
  }
});

/** A UDP echo server at the far side of a link, and what a client at the near side is run with. */
async function farServer(
  link: ReturnType<typeof makeLink>,
): Promise<AsyncDisposable & { args: string[]; options: SpawnOptions }> {
  const server = python(PLAIN_UDP.replace("127.0.0.1", "10.9.8.2"), [], { via: link.far.via });
  const port = await server.nextLine();
  return {
    args: ["-H", "10.9.8.2", "-p", port],
    options: { via: link.near.via, allowNet: `0.0.0.0:0,10.9.8.2:${port}` },
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

test("its own link is down for one sentence: that one is lost", NEEDS.namespace, async (t) => {
  const rows: [string, string, string, RegExp][] = [
    [
      "down: the system refuses to send",
      "ip link set veth0 down",
      "ip link set veth0 up",
      /^udp_client: sentence 2 is lost: cannot send to 10\.9\.8\.2:\d+: network is unreachable$/m,
    ],
    [
      "a firewall: the same, in other words",
      "nft 'add table ip echo; add chain ip echo out { type filter hook output priority 0; policy drop; }'",
      "nft delete table ip echo",
      /^udp_client: sentence 2 is lost: cannot send to \S+: refused by the system \(EPERM\)$/m,
    ],
  ];
  for (const [name, down, up, said] of rows) {
    await t.step(name, async () => {
      using link = makeLink();
      await using server = await farServer(link);
      const args = [...server.args, "--timeout", "0.2", "--retries", "1"];
      await using client = spawn("udp_client.ts", args, server.options);
      await client.write("one\n");
      assertEquals(await client.nextLine(), "one");
      link.near.run(down);
      await client.write("two\n");
      const before = await client.stderr.until("sentence 2 is lost");
      link.near.run(up);
      await client.write("three\n");
      await client.end();
      const { code, stdout, stderr } = await client.finish();
      assertEquals([code, stdout], [1, "three\n"]);
      assertMatch(before + stderr, said);
    });
  }
});

test(
  "a link that takes nothing: a try is as long as one that is not answered",
  NEEDS.namespace,
  async () => {
    using link = makeLink();
    await using server = await farServer(link);
    // Who has the address is not known, and so much waits for it that the send buffer is full.
    link.near.run("echo 4000000 > /proc/sys/net/ipv4/neigh/veth0/unres_qlen_bytes");
    link.near.run("echo 600000 > /proc/sys/net/ipv4/neigh/veth0/retrans_time_ms");
    link.far.run("ip link set veth0 down");
    const stdin = `${"x".repeat(65_000)}\n`.repeat(6);
    const args = [...server.args, "--timeout", "0.05", "--retries", "2", "--json", "--no-stop"];
    const { code, stdout } = await runScript("udp_client.ts", args, { ...server.options, stdin });
    const events = eventsOf(stdout);
    const { sent, echoed, lost } = events.at(-1);
    assertEquals([code, sent, echoed, lost], [1, 6, 0, 6]);
  },
);

// ---- Names ----

/** Runs `udp_client.ts` in a network with some lines in its /etc/hosts. */
async function runWithHosts(
  network: Network,
  hosts: string,
  args: string[],
  allowNet: string,
): Promise<Result> {
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, hosts);
    const bind = 'mount --bind "$0" /etc/hosts && exec "$@"';
    const via = [...network.via, "unshare", "--mount", "sh", "-c", bind, file];
    return await runScript("udp_client.ts", args, { via, allowNet });
  } finally {
    await Deno.remove(file);
  }
}

test(
  "a name with several addresses: the next where the first never answers",
  NEEDS.namespace,
  async (t) => {
    using network = makeNetwork();
    await using server = python(PLAIN_UDP, [], network);
    const port = await server.nextLine();
    const hosts = "127.0.0.2 echo.test\n127.0.0.1 echo.test\n";
    const args = ["-H", "echo.test", "-p", port, "--timeout", "0.2", "--retries", "1", "hello"];

    await t.step("the next answers", async () => {
      const allowNet = `echo.test,127.0.0.1:0,127.0.0.1:${port},127.0.0.2:${port}`;
      const { code, stdout, stderr } = await runWithHosts(network, hosts, args, allowNet);
      assertEquals([code, stdout], [0, "hello\n"]);
      const first = `no answer from 127\\.0\\.0\\.2:${port}`;
      assertMatch(
        stderr,
        new RegExp(
          `^udp_client: ${first} yet; .*\nudp_client: ${first} after 2 tries in \\S+ s; trying \\S+\n$`,
        ),
      );
    });

    await t.step("what is not permitted is named for each family, once", async () => {
      const both = `::1 echo.test\n${hosts}`;
      const { code, stderr } = await runWithHosts(network, both, args, "echo.test");
      const v4 = `127.0.0.1:0,127.0.0.2:${port},127.0.0.1:${port}`;
      assertEquals(code, 1);
      assert(
        [`${v4},[::1]:0,[::1]:${port}`, `[::1]:0,[::1]:${port},${v4}`].some((needed) =>
          stderr.endsWith(` add --allow-net=${needed}\n`)
        ),
        stderr,
      );
    });
  },
);

test("no local port is free: UDP says so, too", NEEDS.namespace, async () => {
  using network = makeNetwork();
  network.run("echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range");
  network.run("echo 40000-40001 > /proc/sys/net/ipv4/ip_local_reserved_ports");
  const { code, stderr } = await runScript("udp_client.ts", ["hello"], { via: network.via });
  const said = "udp_client: cannot open a socket at 127.0.0.1:0: no local port is free\n";
  assertEquals([code, stderr], [1, said]);
});

test("a name server that is not there, or never answers", NEEDS.namespace, async (t) => {
  const config = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(config, "nameserver 127.0.0.1\n");
    const bind = 'mount --bind "$0" /etc/resolv.conf && exec "$@"';
    const cannot = 'udp_client: cannot find the address of "echo.example.org"';
    const ask = (network: Network, ...args: string[]): Promise<Result> =>
      runScript("udp_client.ts", ["-H", "echo.example.org", ...args, "hello"], {
        via: [...network.via, "sh", "-c", bind, config],
        allowNet: "echo.example.org",
      });

    await t.step("it is not there", async () => {
      using network = makeNetwork();
      const { code, stderr } = await ask(network, "--timeout", "20");
      assertEquals([code, stderr], [1, `${cannot}: no name server answers\n`]);
    });

    await t.step("it never answers: --timeout ends it", async () => {
      using network = makeNetwork();
      network.run(dropRule("udp dport 53"));
      const [{ code, stderr }, waited] = await timed(ask(network, "--timeout", "0.5"));
      assertEquals([code, stderr], [1, `${cannot}: no answer within 0.5 s\n`]);
      assertLess(waited, 4); // the system's own patience is 10 s
    });
  } finally {
    await Deno.remove(config);
  }
});
