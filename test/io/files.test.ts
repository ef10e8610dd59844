/** Blocks as buffers of files: O_DIRECT, scattered reads, and streams that take over buffers. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { Device, type DmaBlock, DmaPool } from 'dmapool';
import { directIoFolder, withoutDirectIo } from '../support/direct-io.ts';

const direct = directIoFolder();

function folderIn(t: TestContext, place: string): string {
  const folder = mkdtempSync(join(place, 'dmapool-io-'));
  t.after(() => {
    rmSync(folder, { recursive: true });
  });
  return folder;
}

/** A file of these bytes, open for reading. */
async function fileOf(t: TestContext, content: Uint8Array): Promise<FileHandle> {
  const path = join(folderIn(t, tmpdir()), 'file');
  writeFileSync(path, content);
  const file = await open(path);
  t.after(() => file.close().catch(() => undefined));
  return file;
}

for (const size of [4096, 12_288, 65_536, 2 ** 20]) {
  test(
    `every block of ${String(size)} bytes with align 4096 is accepted by O_DIRECT`,
    { skip: withoutDirectIo(direct) },
    (t) => {
      assert.ok(direct !== null, 'a file system with O_DIRECT');
      const path = join(folderIn(t, direct), 'file');
      const fd = openSync(path, constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT);
      t.after(() => {
        closeSync(fd);
      });
      const pool = DmaPool.create('chunk', new Device({ name: 'file' }), { size, align: 4096 });
      const blocks: DmaBlock<'chunk'>[] = [];
      const count = Math.min(64, (16 * 2 ** 20) / size);
      pool.allocBulk(blocks, count);
      const data = randomBytes(count * size);
      for (const [i, { bytes }] of blocks.entries()) {
        bytes.set(data.subarray(i * size, (i + 1) * size));
        assert.equal(writeSync(fd, bytes, 0, size, i * size), size);
        bytes.fill(0);
      }
      // Each block reads another block's chunk.
      for (const [i, { bytes }] of blocks.entries()) {
        const at = ((i + 7) % count) * size;
        assert.equal(readSync(fd, bytes, 0, size, at), size);
        assert.ok(data.subarray(at, at + size).equals(bytes), `chunk at ${String(at)}`);
      }
      pool.freeBulk(blocks);
    },
  );
}

test('one readv fills several blocks, and no byte beside them', async (t) => {
  const data = randomBytes(5 * 512 + 100);
  const file = await fileOf(t, data);
  const pool = DmaPool.create('page', new Device({ name: 'file' }), { size: 512, maxBlocks: 8 });
  const blocks: DmaBlock<'page'>[] = [];
  pool.allocBulk(blocks, 8);
  for (const { bytes } of blocks) bytes.fill(0xee);
  // Every other block, in descending order.
  const targets = [6, 4, 2].map((i) => blocks[i]!);
  const views = targets.map(({ bytes }) => bytes);
  assert.equal((await file.readv(views, 512)).bytesRead, 3 * 512);
  for (const [i, { bytes }] of targets.entries()) {
    assert.ok(data.subarray(512 * (i + 1), 512 * (i + 2)).equals(bytes));
  }
  for (const i of [0, 1, 3, 5, 7]) assert.ok(blocks[i]!.bytes.every((byte) => byte === 0xee));
  pool.freeBulk(blocks);
});

test('a stream of bytes refuses a block in both directions, and leaves it unchanged', async (t) => {
  const pool = DmaPool.create('chunk', new Device({ name: 'web' }), { size: 4096 });
  const block = pool.alloc();
  block.bytes.fill(7);
  const file = await fileOf(t, Buffer.alloc(4096, 1));
  const reader = file.readableWebStream({ type: 'bytes' }).getReader({ mode: 'byob' });
  await assert.rejects(reader.read(block.bytes), TypeError);
  const source = new ReadableStream({
    type: 'bytes',
    pull(controller) {
      controller.enqueue(block.bytes);
    },
  });
  await assert.rejects(source.getReader().read(), TypeError);
  assert.ok(block.bytes.length === 4096 && block.bytes.every((byte) => byte === 7));
  pool.free(block);
});
