/**
 * Copies what scripts share from the script that leads into the others. The mark above a block names
 * both: "The same in …: edit it in tcp_server.ts, then `deno task sync`". Then it puts the right line
 * into each link from a document to a function.
 *
 * ```sh
 * deno task sync
 * ```
 *
 * @module
 */

import { fixLinks } from "./_links.ts";

const MARK = /^\/\/ ---- The same in [^:]+: edit it in (\w+\.ts), then `deno task sync`\. ----$/m;
const SCRIPTS = ["tcp_server.ts", "tcp_client.ts", "udp_server.ts", "udp_client.ts"];

/** A script in parts: what is its own, then each block that it shares, which begins with its mark. */
function partsOf(source: string): string[] {
  return source.split(/^(?=\/\/ ---- The same in )/m);
}

/** The scripts as they would be if each shared block were its leader's; `read` gives their source. */
export function synced(read: (script: string) => string): Map<string, string> {
  const sources = new Map(SCRIPTS.map((script) => [script, partsOf(read(script))]));
  const follow = (part: string): string => {
    const [mark, leader] = MARK.exec(part) ?? [];
    if (!mark) return part;
    const leading = sources.get(leader!)?.find((block) => block.startsWith(mark));
    if (!leading) throw new Error(`${leader} has no block "${mark}"`);
    return leading;
  };
  return new Map([...sources].map(([script, parts]) => [script, parts.map(follow).join("")]));
}

if (import.meta.main) {
  const url = (script: string): URL => new URL(`../${script}`, import.meta.url);
  const read = (script: string): string => Deno.readTextFileSync(url(script));
  for (const [script, source] of synced(read)) {
    if (source === read(script)) continue;
    Deno.writeTextFileSync(url(script), source);
    console.log(`${script}: shared blocks copied from their leading scripts`);
  }
  for (const { document, name, from, to } of fixLinks()) {
    console.log(`${document}: ${name}: ${from} is now ${to}`);
  }
}
