import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import * as dmapool from 'dmapool';
import * as linux from 'dmapool/linux';
import * as pci from 'dmapool/pci';
import * as qemu from 'dmapool/qemu';
import * as shared from 'dmapool/shared';
import { DmaTraceError } from 'dmapool/trace';
import * as wasm from 'dmapool/wasm';

const root = new URL('../../../', import.meta.url);

function text(file: string): string {
  return readFileSync(new URL(file, root), 'utf8');
}

/** The codes that occur in the sources of a folder, sorted. */
function codesIn(folder: string): string[] {
  const files = readdirSync(new URL(folder, root), { recursive: true, encoding: 'utf8' });
  const sources = files.filter((file) => file.endsWith('.ts')).map((file) => text(`${folder}/${file}`));
  return [...new Set(sources.join('\n').match(/ERR_DMAPOOL_[A-Z0-9_]*[A-Z0-9]\b/g))].sort();
}

test('the table of error codes has every code, and each class is exported', () => {
  const declared = codesIn('src');
  assert.ok(declared.length > 40);
  const rows = [...text('docs/errors.md').matchAll(/^\| `(ERR_\w+)`\s*\| `(\w+)`/gm)];
  assert.deepEqual(rows.map((row) => row[1]).sort(), declared);
  const classes: Record<string, unknown> = {
    ...{ ...dmapool, ...shared, ...linux, ...pci, ...qemu, ...wasm },
    DmaTraceError,
  };
  for (const [, code, name] of rows) assert.equal(typeof classes[name!], 'function', `${code!}: ${name!}`);
});

for (const driver of ['nvme', 'ehci', 'e1000']) {
  test(`the guide of the driver ${driver} has a table of all its error codes`, () => {
    // Codes of lower layers are in docs/errors.md.
    const declared = codesIn(`drivers/${driver}`).filter((code) => /^ERR_DMAPOOL_(NVME|USB|E1000)_/.test(code));
    const rows = [...text(`docs/drivers-${driver}.md`).matchAll(/^\| `(ERR_\w+)`/gm)].map((row) => row[1]!);
    assert.ok(declared.length >= 4);
    assert.deepEqual(rows.sort(), declared);
  });
}
