/**
 * The API report: the exports of each entry point as the compiler declares them, without comments. Committed in `api/`,
 * it shows every change of the public surface in a diff. A test keeps it current.
 *
 * Written for this project because api-extractor reads one entry point at a time, with an older compiler of its own.
 */
import { join } from 'node:path';
import ts from 'typescript';

/** An entry point in package.json. */
export interface ReportedEntry {
  /** Import specifier: `dmapool/trace`. */
  readonly specifier: string;
  /** Path of its declarations, relative to the package. */
  readonly types: string;
}

/** Lists the entry points of a package.json. */
export function reportedEntries(manifest: string): ReportedEntry[] {
  const { name, exports } = JSON.parse(manifest) as {
    name: string;
    exports: Record<string, string | { types: string }>;
  };
  return Object.entries(exports).flatMap(([subpath, target]) =>
    typeof target === 'string' ? [] : [{ specifier: name + subpath.slice(1), types: target.types }],
  );
}

/** Path of an entry point's report, relative to the project. */
export function reportFile(specifier: string): string {
  return `api/${specifier.replaceAll('/', '-')}.md`;
}

interface Surface {
  readonly specifier: string;
  /** Exports by name, sorted. */
  readonly exported: ReadonlyMap<string, ts.Symbol>;
}

/** Builds the report of each entry point, by specifier. The declarations must be compiled. */
export function apiReports(root: string, entries: readonly ReportedEntry[]): Map<string, string> {
  const files = entries.map(({ types }) => join(root, types));
  const program = ts.createProgram(files, {
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2024.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    types: ['node'],
    typeRoots: [join(root, 'node_modules', '@types')],
    noEmit: true,
  });
  const checker = program.getTypeChecker();
  const surfaces = entries.map(({ specifier }, i): Surface => {
    const file = program.getSourceFile(files[i]!);
    const module = file === undefined ? undefined : checker.getSymbolAtLocation(file);
    if (module === undefined) throw new Error(`${specifier}: no declarations at ${files[i]!}; run npm run build`);
    const named = checker.getExportsOfModule(module).map((symbol) => [symbol.name, target(checker, symbol)] as const);
    return { specifier, exported: new Map(named.sort(byName)) };
  });
  const elsewhere = (surface: Surface): Map<ts.Symbol, string> =>
    new Map(
      surfaces
        .filter((other) => other !== surface)
        .flatMap(({ specifier, exported }) => [...exported.values()].map((symbol) => [symbol, specifier] as const)),
    );
  return new Map(surfaces.map((surface) => [surface.specifier, report(checker, surface, elsewhere(surface))]));
}

function report(checker: ts.TypeChecker, surface: Surface, elsewhere: ReadonlyMap<ts.Symbol, string>): string {
  const { specifier, exported } = surface;
  const own = new Set(exported.values());
  const hidden = new Map<string, ts.Symbol>();
  const borrowed = new Set<string>();
  const queue = [...own];
  // Types that an export refers to are part of the surface, exported or not: the base class of the pool, for example.
  for (let symbol = queue.shift(); symbol !== undefined; symbol = queue.shift()) {
    const from = own.has(symbol) ? undefined : elsewhere.get(symbol);
    if (from !== undefined) {
      borrowed.add(`${symbol.name} of ${from}`);
      continue;
    }
    if (!own.has(symbol)) hidden.set(symbol.name, symbol);
    for (const used of uses(checker, symbol)) {
      if (!own.has(used) && hidden.get(used.name) !== used && !queue.includes(used)) queue.push(used);
    }
  }
  const lines = [`# API of \`${specifier}\``, '', 'Written by `npm run api`; do not edit.', '', '```ts'];
  for (const [name, symbol] of exported) {
    if (name !== symbol.name) lines.push(`// ${symbol.name} as ${name}`);
    lines.push(...declarations(symbol), '');
  }
  lines.splice(-1, 1, '```');
  if (hidden.size > 0) {
    lines.push('', '## Not exported, but used by exports', '', '```ts');
    for (const [, symbol] of [...hidden].sort(byName)) lines.push(...declarations(symbol), '');
    lines.splice(-1, 1, '```');
  }
  if (borrowed.size > 0) lines.push('', `Also uses ${[...borrowed].sort().join(', ')}.`);
  return `${lines.join('\n')}\n`;
}

/** Top-level names of the project that occur in a symbol's declarations. */
function uses(checker: ts.TypeChecker, symbol: ts.Symbol): ts.Symbol[] {
  const found: ts.Symbol[] = [];
  const visit = (node: ts.Node): void => {
    if (isPrivate(node)) return;
    if (ts.isIdentifier(node)) {
      const used = checker.getSymbolAtLocation(node);
      const resolved = used === undefined ? undefined : target(checker, used);
      if (resolved !== undefined && resolved !== symbol && resolved.declarations?.some(isTopLevel) === true) {
        found.push(resolved);
      }
    }
    ts.forEachChild(node, visit);
  };
  symbol.declarations?.forEach(visit);
  return found;
}

function declarations(symbol: ts.Symbol): string[] {
  return (symbol.declarations ?? []).map((declaration) => {
    const statement = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
    const { transformed } = ts.transform(statement, [withoutPrivates]);
    return printer
      .printNode(ts.EmitHint.Unspecified, transformed[0]!, declaration.getSourceFile())
      .replace(/^export /, '')
      .replace(/^declare /, '');
  });
}

const printer = ts.createPrinter({ removeComments: true });

/** Removes private class members, except constructors: a private one shows that users can't construct the class. */
const withoutPrivates: ts.TransformerFactory<ts.Node> = (context) => (root) => {
  const visit = (node: ts.Node): ts.Node | undefined =>
    isPrivate(node) ? undefined : ts.visitEachChild(node, visit, context);
  return ts.visitEachChild(root, visit, context);
};

function isPrivate(node: ts.Node): boolean {
  if (!ts.isClassElement(node) || ts.isConstructorDeclaration(node)) return false;
  return (ts.getCombinedModifierFlags(node) & ts.ModifierFlags.Private) !== 0;
}

function isTopLevel(declaration: ts.Declaration): boolean {
  const statement = ts.isVariableDeclaration(declaration) ? declaration.parent.parent : declaration;
  const file = statement.parent;
  return ts.isSourceFile(file) && !file.fileName.includes('/node_modules/');
}

function target(checker: ts.TypeChecker, symbol: ts.Symbol): ts.Symbol {
  return (symbol.flags & ts.SymbolFlags.Alias) === 0 ? symbol : checker.getAliasedSymbol(symbol);
}

function byName(a: readonly [string, ts.Symbol], b: readonly [string, ts.Symbol]): number {
  return a[0] < b[0] ? -1 : 1;
}
