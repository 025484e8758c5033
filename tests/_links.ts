/**
 * Keeps the links from the documents to lines of the code right. A link such as
 * ``[`writeAll` in tcp_server.ts](../../tcp_server.ts#L314)`` leads to the line where the name in
 * its text is defined.
 *
 * @module
 */

/** A link that led to another line than the one where its name is defined. */
export type LinkChange = { document: string; name: string; from: string; to: string };

const LINK = /\[([^\]]*`([^`\]]+)`[^\]]*)\]\(([^)#\s]+\.(?:ts|py))#L(\d+)\)/g;

/** The file URL of a path in the repo. */
function fileUrl(path: string): URL {
  return new URL(`../${path}`, import.meta.url);
}

/** The Markdown files of the repo, by their paths in it. */
export function documents(): string[] {
  const folders = ["", "docs/", "docs/lab/"];
  return folders.flatMap((folder) =>
    [...Deno.readDirSync(fileUrl(folder))]
      .filter(({ isFile, name }) => isFile && name.endsWith(".md"))
      .map(({ name }) => folder + name)
      .sort()
  );
}

/**
 * Puts the right line into each link, and formats the documents that it changed.
 *
 * @param options with `check`, nothing is written
 * @returns what was wrong
 * @throws Error where a name is defined nowhere in its file, or more than once
 */
export function fixLinks({ check = false }: { check?: boolean } = {}): LinkChange[] {
  const changes: LinkChange[] = [];
  const changed: string[] = [];
  for (const document of documents()) {
    const before = Deno.readTextFileSync(fileUrl(document));
    const after = before.replace(LINK, (link, text, name, path, line) => {
      const source = Deno.readTextFileSync(new URL(path, fileUrl(document)));
      const right = `${lineOf(name, source, `${document}: ${path}`)}`;
      if (line === right) return link;
      changes.push({ document, name, from: `${path}#L${line}`, to: `${path}#L${right}` });
      return `[${text}](${path}#L${right})`;
    });
    if (after === before || check) continue;
    Deno.writeTextFileSync(fileUrl(document), after);
    changed.push(fileUrl(document).pathname);
  }
  if (changed.length > 0) { // a number may have one digit more
    const { success } = new Deno.Command(Deno.execPath(), { args: ["fmt", "--quiet", ...changed] })
      .outputSync();
    if (!success) throw new Error(`deno fmt ${changed.join(" ")} failed`);
  }
  return changes;
}

/** The number of the line that defines a function, class, type, method or constant. */
function lineOf(name: string, source: string, where: string): number {
  const lines = source.split("\n");
  const own = name.replace(/^.*\./, "").replaceAll(/[^\w#]/g, ""); // `Class.method`, `method()`
  const top = new RegExp(
    `^(export )?(default )?(async )?(function\\*?|class|type|interface|const|let|def) ${own}\\b`,
  );
  const method = new RegExp(`^ +(static )?(async )?\\*?${own}(<.*>)?\\((?!.*;$)`);
  for (const pattern of [top, method]) {
    const found = lines.flatMap((line, i) => pattern.test(line) ? [i + 1] : []);
    if (found.length > 1) throw new Error(`${where} defines \`${name}\` ${found.length} times`);
    if (found[0]) return found[0];
  }
  throw new Error(`${where} does not define \`${name}\``);
}
