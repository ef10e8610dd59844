/**
 * Every public export has a doc comment; functions and methods have an example and describe their parameters.
 * (examples.test.ts compiles and runs the examples.)
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';
import { entryPoints, entryProgram, exportsOf, membersOf, root } from './entry-points.ts';

const program = entryProgram();
const checker = program.getTypeChecker();

function hasText(symbol: ts.Symbol): boolean {
  return ts.displayPartsToString(symbol.getDocumentationComment(checker)).trim() !== '';
}

function hasTag(symbol: ts.Symbol, name: string): boolean {
  return symbol.getJsDocTags(checker).some((tag) => tag.name === name);
}

function where(declaration: ts.Declaration): string {
  const file = declaration.getSourceFile();
  const { line } = file.getLineAndCharacterOfPosition(declaration.getStart());
  return `${relative(root, file.fileName)}:${String(line + 1)}`;
}

/** Parameters of a function or method without a `@param`; for a method, a mention in backquotes suffices. */
function unexplained(symbol: ts.Symbol): string[] {
  const [declaration] = symbol.declarations ?? [];
  if (declaration === undefined || !ts.isFunctionLike(declaration)) return [];
  const explained = new Set(
    ts
      .getJSDocTags(declaration)
      .filter(ts.isJSDocParameterTag)
      .map((tag) => tag.name.getText()),
  );
  const text =
    ts.isMethodDeclaration(declaration) || ts.isMethodSignature(declaration)
      ? ts.displayPartsToString(symbol.getDocumentationComment(checker))
      : '';
  return declaration.parameters
    .map((parameter) => parameter.name.getText())
    .filter((name) => !explained.has(name) && !text.includes(`\`${name}`) && !text.includes(`{@link `));
}

function isError(symbol: ts.Symbol): boolean {
  const type = checker.getDeclaredTypeOfSymbol(symbol);
  return checker.getPropertiesOfType(type).some(({ name }) => name === 'stack') && symbol.name !== 'DmaError';
}

for (const entry of entryPoints()) {
  test(`${entry.specifier}: every export is documented`, () => {
    const missing: string[] = [];
    for (const [name, { symbol }] of exportsOf(program, entry)) {
      const [declaration] = symbol.declarations ?? [];
      if (declaration === undefined) continue;
      const complain = (what: string, at: ts.Declaration = declaration): void => {
        missing.push(`${where(at)}: ${what}`);
      };
      if (!hasText(symbol)) complain(`${name} has no doc comment`);
      const callable = (symbol.flags & (ts.SymbolFlags.Function | ts.SymbolFlags.Class)) !== 0 && !isError(symbol);
      if (callable && !hasTag(symbol, 'example')) complain(`${name} has no @example`);
      for (const parameter of unexplained(symbol)) complain(`${name}: no @param ${parameter}`);
      for (const member of membersOf(program, symbol)) {
        const [own] = member.declarations!;
        if (!hasText(member)) complain(`${name}.${member.name} has no doc comment`, own);
        for (const parameter of unexplained(member)) complain(`${name}.${member.name}: no @param ${parameter}`, own);
      }
    }
    assert.deepEqual(missing, []);
  });
}

test('the reference has every entry point', () => {
  const { entryPoints: listed } = JSON.parse(readFileSync(join(root, 'typedoc.json'), 'utf8')) as {
    entryPoints: string[];
  };
  assert.deepEqual(
    listed.sort(),
    entryPoints()
      .map(({ source }) => source)
      .sort(),
  );
});
