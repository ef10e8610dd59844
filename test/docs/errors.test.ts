import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as dmapool from 'dmapool';
import * as linux from 'dmapool/linux';
import * as pci from 'dmapool/pci';
import * as qemu from 'dmapool/qemu';
import * as shared from 'dmapool/shared';
import { DmaTraceError } from 'dmapool/trace';

const root = new URL('../../../', import.meta.url);

test('the table of error codes has every code, and each class is exported', () => {
  // Each part declares the codes of its own classes.
  const parts = [
    'errors',
    'memory/errors',
    'device/errors',
    'shared/errors',
    'pci/error',
    'linux/error',
    'qemu/error',
    'trace/error',
  ];
  const sources = parts.map((part) => readFileSync(new URL(`src/${part}.ts`, root), 'utf8')).join('\n');
  const declared = new Set([...sources.matchAll(/'(ERR_DMAPOOL_\w+)'/g)].map((found) => found[1]));
  const rows = [...readFileSync(new URL('docs/errors.md', root), 'utf8').matchAll(/^\| `(ERR_\w+)`\s*\| `(\w+)`/gm)];
  assert.deepEqual(rows.map((row) => row[1]).sort(), [...declared].sort());
  const classes: Record<string, unknown> = { ...dmapool, ...shared, ...linux, ...pci, ...qemu, DmaTraceError };
  for (const [, code, name] of rows) assert.equal(typeof classes[name!], 'function', `${code!}: ${name!}`);
});
