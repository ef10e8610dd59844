import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import type { IoComparison } from '../../bench/io/compare.ts';
import { CHUNK, CONTENDERS, Sender } from '../../bench/io/send.ts';

const script = fileURLToPath(new URL('../../bench/io.js', import.meta.url));

test('bench:io compares four servers; blocks of a pool make no ArrayBuffer', { timeout: 120_000 }, () => {
  const args = [script, '--chunks', '1500', '--runs', '1', '--json'];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  const { results, chunks, runs } = JSON.parse(stdout) as IoComparison;
  assert.deepEqual([chunks, runs], [1500, 1]);
  const made = Object.fromEntries(results.map(({ contender, arrayBufferBytes }) => [contender, arrayBufferBytes]));
  assert.deepEqual(Object.keys(made), ['pool', 'alloc', 'allocUnsafe', 'reused']);
  // No timings: these figures are the same on any machine. The others prove that the measurement finds buffers.
  assert.equal(made['pool'], 0);
  assert.equal(made['reused'], 0);
  assert.ok(made['alloc']! > 2 ** 20 && made['allocUnsafe']! > 2 ** 20, stdout);
  for (const { ofBest, residentOfLeast, bytesPerSecond } of results) {
    assert.ok(ofBest > 0 && ofBest <= 1 && residentOfLeast >= 1 && bytesPerSecond > 0);
  }
});

test('bench:io refuses unknown options with exit code 2', () => {
  for (const bad of [['--runs', '0'], ['--chunks', 'x'], ['--unknown']]) {
    const { status, stderr } = spawnSync(process.execPath, [script, ...bad], { encoding: 'utf8' });
    assert.equal(status, 2);
    assert.match(stderr, /usage: npm run bench:io/);
  }
});

test('each server sends the file’s chunks in order', { timeout: 60_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-io-'));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  const file = randomBytes(5 * CHUNK);
  writeFileSync(join(folder, 'file'), file);
  const expected = Buffer.concat([file, file, file]).subarray(0, 12 * CHUNK);
  for (const contender of CONTENDERS) {
    const sender = new Sender(join(folder, 'file'), contender);
    const server = createServer((socket) => {
      void sender
        .send(socket, 5, () => undefined)
        .then(() => sender.send(socket, 7, () => undefined))
        .then(() => socket.end());
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const parts: Buffer[] = [];
    for await (const part of connect((server.address() as AddressInfo).port, '127.0.0.1')) parts.push(part as Buffer);
    assert.ok(Buffer.concat(parts).equals(expected), contender);
    sender.close();
    server.close();
  }
});
