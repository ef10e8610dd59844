/**
 * The examples in the doc comments of public exports, as programs.
 *
 * They are written without imports, to be short: this module adds imports of the package's exports that they use. They
 * define everything else themselves.
 */
import { relative } from 'node:path';
import ts from 'typescript';
import { type EntryPoint, entryPoints, entryProgram, exportsOf, membersOf, root } from './entry-points.ts';

/** One example. */
export interface DocExample {
  readonly name: string;
  readonly source: string;
}

interface Exported {
  readonly specifier: string;
  readonly typeOnly: boolean;
}

const CODE = /^```ts\n(.*?)^```$/gms;

/** Every example of every public export and its members, once. */
export function docExamples(): DocExample[] {
  const program = entryProgram();
  const checker = program.getTypeChecker();
  const entries = entryPoints();
  const examples: DocExample[] = [];
  const seen = new Set<ts.Symbol>();
  for (const entry of entries) {
    const exported = exportedNames(program, [entry, ...entries]);
    for (const [name, { symbol }] of exportsOf(program, entry)) {
      const documented: [string, ts.Symbol][] = [[name, symbol]];
      for (const member of membersOf(program, symbol)) documented.push([`${name}.${member.name}`, member]);
      for (const [title, each] of documented) {
        if (seen.has(each)) continue;
        seen.add(each);
        for (const tag of each.getJsDocTags(checker)) {
          if (tag.name !== 'example') continue;
          const text = ts.displayPartsToString(tag.text);
          const file = each.declarations?.[0]?.getSourceFile().fileName ?? '';
          for (const [, code] of text.matchAll(CODE)) {
            examples.push({
              name: `${relative(root, file)} ${title}`,
              source: `${importsFor(code!, exported)}\n${code!}\nexport {};\n`,
            });
          }
        }
      }
    }
  }
  return examples;
}

/** The entry point of each name; the first one if several export it. */
function exportedNames(program: ts.Program, entries: readonly EntryPoint[]): Map<string, Exported> {
  const names = new Map<string, Exported>();
  for (const entry of entries) {
    for (const [name, { typeOnly }] of exportsOf(program, entry)) {
      if (!names.has(name)) names.set(name, { specifier: entry.specifier, typeOnly });
    }
  }
  return names;
}

function importsFor(code: string, exported: ReadonlyMap<string, Exported>): string {
  const bySpecifier = new Map<string, string[]>();
  for (const word of new Set(code.match(/[A-Za-z_$][\w$]*/g))) {
    const found = exported.get(word);
    if (found === undefined) continue;
    const names = bySpecifier.get(found.specifier) ?? [];
    bySpecifier.set(found.specifier, names);
    names.push(found.typeOnly ? `type ${word}` : word);
  }
  return [...bySpecifier].map(([from, names]) => `import { ${names.join(', ')} } from '${from}';`).join('\n');
}
