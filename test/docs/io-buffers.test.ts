/** The program of docs/io-buffers.md that reads with O_DIRECT, in a folder that supports it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { directIoFolder, withoutDirectIo } from '../support/direct-io.ts';
import { root } from './entry-points.ts';

const folder = directIoFolder();

test('the program that reads with O_DIRECT works as written', { skip: withoutDirectIo(folder) }, () => {
  const page = readFileSync(join(root, 'docs', 'io-buffers.md'), 'utf8');
  const source = /^<!-- file: direct-read\.mjs -->\n\n```ts\n(.*?)^```$/ms.exec(page)![1]!;
  // Inside the project, so that the package resolves itself by name.
  const programs = join(root, 'dist', 'doc-direct');
  assert.ok(folder !== null, 'a file system with O_DIRECT');
  const data = mkdtempSync(join(folder, 'dmapool-direct-'));
  try {
    mkdirSync(programs, { recursive: true });
    writeFileSync(join(programs, 'direct-read.mjs'), source);
    for (const size of [0, 1, 4096, 65_536, 200_000]) {
      writeFileSync(join(data, 'file'), Buffer.alloc(size, 1));
      const args = [join(programs, 'direct-read.mjs'), join(data, 'file')];
      const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
      assert.equal(status, 0, stderr);
      assert.equal(stdout, `${String(size)} bytes\n`);
    }
  } finally {
    rmSync(programs, { recursive: true, force: true });
    rmSync(data, { recursive: true });
  }
});
