/** The package's public entry points, as TypeScript sees their sources. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** The project's folder. */
export const root: string = fileURLToPath(new URL('../../../', import.meta.url));

/** One entry point: its import specifier and its source. */
export interface EntryPoint {
  readonly specifier: string;
  /** Relative to the project's folder. */
  readonly source: string;
}

/** All code entries of package.json's `exports`. */
export function entryPoints(): EntryPoint[] {
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    exports: Record<string, string | { readonly default: string }>;
  };
  return Object.entries(exports).flatMap(([subpath, target]) =>
    typeof target === 'string'
      ? []
      : [
          {
            specifier: `dmapool${subpath.slice(1)}`,
            source: target.default.replace(/^\.\/dist\//, '').replace(/\.js$/, '.ts'),
          },
        ],
  );
}

/** The project's compiler options. */
export function compilerOptions(): ts.CompilerOptions {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: { compilerOptions: Record<string, unknown> };
  };
  return ts.convertCompilerOptionsFromJson(config.compilerOptions, root).options;
}

/** A program of all entry points. */
export function entryProgram(): ts.Program {
  return ts.createProgram(
    entryPoints().map(({ source }) => join(root, source)),
    { ...compilerOptions(), noEmit: true },
  );
}

/** One export of an entry point. */
export interface Export {
  /** The symbol behind any alias. */
  readonly symbol: ts.Symbol;
  /** True if it can be imported as a type only. */
  readonly typeOnly: boolean;
}

/** The exports of an entry point by name, without those that are internal to the package. */
export function exportsOf(program: ts.Program, { source }: EntryPoint): Map<string, Export> {
  const checker = program.getTypeChecker();
  const file = program.getSourceFile(join(root, source));
  const module = file === undefined ? undefined : checker.getSymbolAtLocation(file);
  if (module === undefined) throw new Error(`${source} is no module`);
  return new Map(
    checker.getExportsOfModule(module).flatMap((exported) => {
      const isAlias = (exported.flags & ts.SymbolFlags.Alias) !== 0;
      const symbol = isAlias ? checker.getAliasedSymbol(exported) : exported;
      if (isInternal(checker, symbol)) return [];
      const [declaration] = exported.declarations ?? [];
      const asType = declaration !== undefined && ts.isTypeOnlyExportDeclaration(declaration);
      return [[exported.name, { symbol, typeOnly: asType || (symbol.flags & ts.SymbolFlags.Value) === 0 }] as const];
    }),
  );
}

function isInternal(checker: ts.TypeChecker, symbol: ts.Symbol): boolean {
  return symbol.getJsDocTags(checker).some(({ name }) => name === 'internal');
}

/** Members that a user can access: of a class also the static and the inherited ones, without those of the language. */
export function membersOf(program: ts.Program, symbol: ts.Symbol): ts.Symbol[] {
  const checker = program.getTypeChecker();
  const [declaration] = symbol.declarations ?? [];
  if (declaration === undefined || (symbol.flags & (ts.SymbolFlags.Class | ts.SymbolFlags.Interface)) === 0) return [];
  const all = checker.getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol));
  if (ts.isClassDeclaration(declaration)) all.push(...(symbol.exports?.values() ?? []));
  return all.filter((member) => {
    const [own] = member.declarations ?? [];
    if (own === undefined || member.name === 'prototype') return false;
    const file = own.getSourceFile();
    if (program.isSourceFileDefaultLibrary(file) || file.fileName.includes('node_modules')) return false;
    const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
    if ((ts.getCombinedModifierFlags(own) & hidden) !== 0) return false;
    if (isInternal(checker, member)) return false;
    return (own as ts.NamedDeclaration).name?.kind !== ts.SyntaxKind.PrivateIdentifier;
  });
}
