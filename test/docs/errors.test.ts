import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as dmapool from 'dmapool';
import * as linux from 'dmapool/linux';
import * as pci from 'dmapool/pci';
import * as qemu from 'dmapool/qemu';
import { DmaTraceError } from 'dmapool/trace';

const root = new URL('../../../', import.meta.url);

test('the table of error codes has every code, and each class is exported', () => {
  const declared = [...readFileSync(new URL('src/errors.ts', root), 'utf8').matchAll(/^ {2}\| '(ERR_DMAPOOL_\w+)'/gm)];
  const rows = [...readFileSync(new URL('docs/errors.md', root), 'utf8').matchAll(/^\| `(ERR_\w+)`\s*\| `(\w+)`/gm)];
  assert.deepEqual(rows.map((row) => row[1]).sort(), declared.map((line) => line[1]).sort());
  const classes: Record<string, unknown> = { ...dmapool, ...linux, ...pci, ...qemu, DmaTraceError };
  for (const [, code, name] of rows) assert.equal(typeof classes[name!], 'function', `${code!}: ${name!}`);
});
