/**
 * Wrong use does not compile, and fails with the expected error: the test removes each `@ts-expect-error TS1234: …` of
 * this folder, and the compiler must report that number on the next line and no other error.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const folder = join(root, 'test', 'types');
const files = readdirSync(folder)
  .filter((name) => !name.endsWith('.test.ts'))
  .map((name) => join(folder, name));

interface Finding {
  readonly line: number;
  readonly code: string;
}

/** The compiler's errors once the comments are removed. */
function compile(): Map<string, Finding[]> {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), (path) => ts.sys.readFile(path)) as {
    config: { compilerOptions: Record<string, unknown> };
  };
  const { options } = ts.convertCompilerOptionsFromJson({ ...config.compilerOptions, noEmit: true }, root);
  const host = ts.createCompilerHost(options);
  const read = host.readFile.bind(host);
  host.readFile = (path) => {
    const text = read(path);
    return files.includes(path) ? text?.replaceAll('@ts-expect-error', '') : text;
  };
  const program = ts.createProgram(files, options, host);
  const found = new Map<string, Finding[]>(files.map((file) => [file, []]));
  for (const { file, start, code, messageText } of ts.getPreEmitDiagnostics(program)) {
    assert.ok(file !== undefined && found.has(file.fileName), ts.flattenDiagnosticMessageText(messageText, '\n'));
    const line = file.getLineAndCharacterOfPosition(start!).line + 1;
    found.get(file.fileName)!.push({ line, code: `TS${String(code)}` });
  }
  return found;
}

/** The expected errors of a file: the number, and the line after it. */
function expectations(file: string): Finding[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((text, i) => {
      const match = /\/\/ @ts-expect-error\s*(TS\d+)?/.exec(text);
      return match === null ? [] : [{ line: i + 2, code: match[1] ?? 'no number' }];
    });
}

test('wrong use does not compile, and fails with the expected error', () => {
  for (const [file, found] of compile()) assert.deepEqual(found, expectations(file), basename(file));
});
